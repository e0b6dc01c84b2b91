"""Optimizer states of hidden units that stay where an MLP is narrowed.

The params of a unit that stays are those that it had, so its state is too: the columns of the first
kernel and of a gate, the entries of biases, norms and of a slope for each unit. The last kernel was
fitted again, but near to its old values: its rows keep the statistics of their gradients. A bypass
that takes over the bias of the last Dense takes over its state as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from lcjax.optim.seeding import LEVELS, field_of
from lcjax.structure.chains import Chain, find_chains, join
from lcjax.structure.sites import params_of

# Fields of optax's states with averages or sums of gradients, besides those of their magnitudes.
# Others can hold old values of params, which a kernel that was fitted again must not return to.
_AVERAGES = LEVELS | {"mu", "trace", "ema", "m1", "m2", "exp_avg", "acc_grads", "grad_acc"}


@dataclass(frozen=True)
class Taken:
    """How a leaf of narrowed params is taken from one of the old params.

    Attributes:
      source: path of the old param.
      shape: of the old param.
      axes: indices that stay, by axis counted from the end; -1 the outputs, -2 the inputs.
      refitted: whether the leaf has new values.
    """

    source: str
    shape: tuple[int, ...]
    axes: Mapping[int, Any] = field(default_factory=dict)
    refitted: bool = False


def taken_leaves(
    old_params: Any, units: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, Taken]:
    """Returns where the leaves come from that the narrowing of some sites wrote, by their paths.

    Args:
      old_params: params or variables from before the collapse.
      units: indices of the hidden units that stay, increasing, by site.
      new: the new params that surgery wrote, by path.
    """
    if not units:
        return {}
    found: dict[str, Taken] = {}
    for chain in find_chains(params_of(old_params)):
        found |= _taken_in(chain, units)
    return {path: one for path, one in found.items() if path in new and _fits(one, new[path])}


def taken_state(fresh: Any, owner: str, path: str, taken: Taken, old: Mapping[str, Any]) -> Any:
    """Returns the state of a narrowed param, taken from the old one; None where it has none.

    Args:
      fresh: the value that `init` gives.
      owner: path of the new param.
      path: of the leaf of the state; it ends in owner.
      taken: where the param comes from.
      old: the leaves of the old state by path.
    """
    before = path[: len(path) - len(owner)]
    value = old.get(before + taken.source)
    if value is None or (taken.refitted and field_of(before) not in _AVERAGES):
        return None
    if jnp.shape(value) == taken.shape:
        value = _cut(value, taken.axes)
    return value if jnp.shape(value) == jnp.shape(fresh) else None


def _taken_in(chain: Chain, units: Mapping[str, Any]) -> dict[str, Taken]:
    """Returns where the leaves of a chain come from."""
    found: dict[str, Taken] = {}
    stay = {i: jnp.asarray(units[chain.site(i)]) for i in chain.acts if chain.site(i) in units}

    def take(name: str, leaf: str, source: str, value: Any, axes: Any, refitted: bool) -> None:
        path, origin = (join(join(chain.path, one), leaf) for one in (name, source))
        found[path] = Taken(origin, tuple(value.shape), axes, refitted)

    for i, dense in chain.denses.items():
        ins = dict([(-2, stay[j]) for j in stay if chain.after(j) == i])
        outs = {-1: stay[i]} if i in stay else {}
        for leaf, value in dense.items():
            axes = {**outs, **(ins if leaf == "kernel" else {})}
            take(chain.dense_name(i), leaf, chain.dense_name(i), value, axes, bool(ins))
    for i in {*stay, *chain.bypasses}:
        last, bypass = chain.after(i), chain.bypass_name(i)
        outs = {-1: stay[last]} if last in stay else {}
        for leaf, value in chain.bypasses.get(i, {}).items():
            take(bypass, leaf, bypass, value, outs, i in stay)
        if "bias" in chain.denses[last]:
            name = chain.dense_name(last)
            take(bypass, "bias", name, chain.denses[last]["bias"], outs, True)
    for i, indices in stay.items():
        outs = {-1: indices}
        for leaf, value in chain.norms.get(i, {}).items():
            take(f"norm_{i}", leaf, f"norm_{i}", value, outs, False)
        for leaf, value in (chain.gate or {}).items():
            take("gate", leaf, "gate", value, outs, False)
        if chain.acts[i].ndim:
            take(chain.act_name(i), "slope", chain.act_name(i), chain.acts[i], outs, False)
    return found


def _fits(taken: Taken, leaf: Any) -> bool:
    shape = list(taken.shape)
    for axis, indices in taken.axes.items():
        if -axis > len(shape):
            return False
        shape[axis] = len(indices)
    return tuple(shape) == jnp.shape(leaf)


def _cut(value: Any, axes: Mapping[int, Any]) -> Any:
    for axis, indices in axes.items():
        value = jnp.take(value, indices, axis=axis)
    return value
