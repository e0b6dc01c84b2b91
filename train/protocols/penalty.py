"""penalty: a penalty in units of the loss, which selects the sites."""

import optax

from train.config.protocol import PenaltyProtocolConfig
from train.engine.optimizers import freeze_slopes, make_adamw, make_optimizer, warmup_cosine
from train.engine.stages import History
from train.runs.protocol import Protocol


class Penalty(Protocol[PenaltyProtocolConfig]):
    """One stage with `lcjax.with_linearity_penalty` from --start; collapses sites within --max-gap.

    With --slope-learning-rate 0 it trains a plain network, which needs no site.
    """

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns the optimizer with the penalty."""
        config = self.task.config
        if config.penalty.slope_learning_rate == 0:
            rate = warmup_cosine(config.optimizer, self.task.steps)
            return freeze_slopes(make_adamw(config.optimizer, rate))
        return make_optimizer(config.optimizer, config.penalty, self.task.steps)
