"""anneal: the slopes of chosen sites follow a schedule to exactly 1."""

import optax

import lcjax
from train.optimizers import holding_slopes, make_adamw, warmup_cosine
from train.protocols.protocol import Protocol
from train.stages import History


class Anneal(Protocol):
    """One stage: slopes go from 0 to 1 over --anneal-fraction of the steps, after --start."""

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns AdamW, with `lcjax.anneal_slopes` after it; slopes not chosen stay."""
        config, steps = self.task.config, self.task.steps
        begin = round(config.penalty.start * steps)
        length = max(1, round(config.protocol.anneal_fraction * steps))
        schedule = optax.linear_schedule(0.0, 1.0, length, transition_begin=begin)
        inner = make_adamw(config.optimizer, warmup_cosine(config.optimizer, steps))
        return optax.chain(
            holding_slopes(inner),
            lcjax.anneal_slopes(schedule, last=config.penalty.last, where=config.penalty.where),
        )
