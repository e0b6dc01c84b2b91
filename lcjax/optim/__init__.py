"""Optax transforms that bring slopes to 1."""

from lcjax.optim.anneal import AnnealState, anneal_slopes
from lcjax.optim.opt_state import carry_opt_state, update_site_selection
from lcjax.optim.param_states import init_marked, param_paths
from lcjax.optim.penalty import (
    add_linearity_penalty,
    linearity_penalty,
    proximal_linearity_penalty,
)
from lcjax.optim.proximal_step import LinearityState
from lcjax.optim.strength import strength_for_gap
from lcjax.optim.wrapper import WithLinearityPenaltyState, with_linearity_penalty

__all__ = [
    "AnnealState",
    "LinearityState",
    "WithLinearityPenaltyState",
    "add_linearity_penalty",
    "anneal_slopes",
    "carry_opt_state",
    "init_marked",
    "linearity_penalty",
    "param_paths",
    "proximal_linearity_penalty",
    "strength_for_gap",
    "update_site_selection",
    "with_linearity_penalty",
]
