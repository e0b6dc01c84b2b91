"""paper: the published method, for comparison."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lcjax
from lcjax.tree.paths import leaf_path
from train.config.base import AnyConfig
from train.config.protocol import PaperConfig
from train.engine.loop import Stage, TrainState
from train.engine.optimizers import make_adamw, warmup_cosine
from train.engine.stages import History
from train.runs.protocol import Protocol

_SLOPE = 0.01


class Paper(Protocol[PaperConfig]):
    """One stage with the penalty `λ Σ (1 − α)²` in the loss, slopes under the model's optimizer.

    Selected sites become PReLUs of slope 0.01, so --activation is overridden by relu; the others
    are plain relus. Then sites with a gap within --max-gap are fused as if their slope were 1.
    Slopes have no weight decay here; in the published code that depends on the user's optimizer.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3 and algorithm 1.
    """

    @staticmethod
    def override_config(config: AnyConfig) -> AnyConfig:
        """Returns the configuration with relu as the activation."""
        return dataclasses.replace(
            config, model=dataclasses.replace(config.model, activation="relu")
        )

    def initial_state(self) -> TrainState:
        """Returns the state with PReLUs at the selected sites."""
        state = super().initial_state()
        params = lcjax.map_slopes(
            lambda slope, chosen: jnp.where(chosen, _SLOPE, slope).astype(slope.dtype),
            state.params,
            self._chosen(state.params),
        )
        return dataclasses.replace(state, params=params)

    def optimizer(self, history: History) -> optax.GradientTransformation:
        """Returns AdamW for weights and selected slopes; the other slopes are frozen."""
        config = self.task.config
        inner = make_adamw(config.optimizer, warmup_cosine(config.optimizer, self.task.steps))

        def freeze(updates: Any, params: Any) -> Any:
            return lcjax.map_slopes(
                lambda update, chosen: jnp.where(chosen, update, jnp.zeros_like(update)),
                updates,
                self._chosen(params),
            )

        return optax.chain(inner, optax.stateless(freeze))

    def stage(self, directory: Path, history: History) -> Stage:
        """Returns the one stage, with the penalty in its loss."""
        penalty, plain = self.task.config.penalty, super().stage(directory, history)
        selection = lcjax.SiteSelection(last=penalty.last, where=penalty.where)

        def loss(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
            value, aux = plain.loss(params, stats, batch, key)
            gaps = lcjax.linearity_penalty(params, sites=selection)
            return value + penalty.strength * gaps, aux

        return dataclasses.replace(plain, loss=loss)

    def _chosen(self, params: Any) -> Any:
        """Returns a tree like params with True at the slopes of selected sites, False elsewhere."""
        penalty = self.task.config.penalty
        sites = lcjax.select_sites(params, last=penalty.last, where=penalty.where)
        chosen = {f"{site}/slope" for site in sites}

        def is_chosen(keys: Any, _: Any) -> bool:
            return leaf_path(keys) in chosen

        return jax.tree_util.tree_map_with_path(is_chosen, params)
