"""reference: the published method as it is, to be compared with."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lcjax
from lcjax.tree.slopes import map_slopes, select_sites, slopes_like
from train.config.base import AnyConfig
from train.engine.loop import TrainState
from train.engine.optimizers import make_adamw, warmup_cosine
from train.engine.stages import History, Stage
from train.protocols.base import Protocol

_SLOPE = 0.01


class Reference(Protocol):
    """One stage with the penalty `λ Σ (1 − α)²` in the loss, slopes under the model's optimizer.

    Chosen sites become PReLUs of slope 0.01: the model's activation is relu, whatever was asked
    for. The other sites are plain relus. Then sites with a gap within --threshold are fused as if
    their slope were 1. Decay does not touch slopes here; the published code leaves that to the
    optimizer it is given.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3 and algorithm 1.
    """

    @staticmethod
    def adapted(config: AnyConfig) -> AnyConfig:
        """Returns the configuration with relu for the activation."""
        return dataclasses.replace(
            config, model=dataclasses.replace(config.model, activation="relu")
        )

    def first(self) -> TrainState:
        """Returns the state with PReLUs swapped in, whatever the slopes were."""
        state, chosen = super().first(), self._chosen()
        params = map_slopes(
            lambda p, here: jnp.where(here, _SLOPE, p).astype(p.dtype),
            state.params,
            chosen(state.params),
        )
        return dataclasses.replace(state, params=params)

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns AdamW on weights and chosen slopes alike; the other slopes stay."""
        config, chosen = self.task.config, self._chosen()
        inner = make_adamw(config.optimizer, warmup_cosine(config.optimizer, self.task.steps))

        def hold(updates: Any, params: Any) -> Any:
            return map_slopes(
                lambda u, here: jnp.where(here, u, jnp.zeros_like(u)), updates, chosen(params)
            )

        return optax.chain(inner, optax.stateless(hold))

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns the one stage, with the penalty in its loss."""
        penalty, plain = self.task.config.penalty, super().stage(directory, history)

        def loss(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
            value, aux = plain.loss(params, stats, batch, key)
            gaps = lcjax.linearity_penalty(
                params, sites=lcjax.SiteSelection(last=penalty.last, where=penalty.where)
            )
            return value + penalty.strength * gaps, aux

        return dataclasses.replace(plain, loss=loss)

    def _chosen(self) -> Any:
        """Returns a function from params to the tree of whether a slope is chosen."""
        penalty = self.task.config.penalty

        def chosen(params: Any) -> Any:
            sites = set(select_sites(params, last=penalty.last, where=penalty.where))
            return slopes_like(params, lambda site, _: site in sites, lcjax.SiteSelection())

        return chosen
