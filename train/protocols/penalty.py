"""natural: a penalty in units of the loss, sites choose themselves."""

import optax

from train.engine.optimizers import holding_slopes, make_adamw, make_optimizer, warmup_cosine
from train.engine.stages import History
from train.protocols.base import Protocol


class Natural(Protocol):
    """One stage under `lcjax.with_linearity_penalty`, from --start on; then sites within --threshold go.

    With --slope-learning-rate 0 it trains a plain network, which needs no site.
    """

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns the collapsing optimizer."""
        config = self.task.config
        if config.penalty.slope_learning_rate == 0:
            rate = warmup_cosine(config.optimizer, self.task.steps)
            return holding_slopes(make_adamw(config.optimizer, rate))
        return make_optimizer(config.optimizer, config.penalty, self.task.steps)
