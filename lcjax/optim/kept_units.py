"""Optimizer states of hidden units that stay where an MLP is narrowed.

The params of a unit that stays are those that it had, so its state is too: the columns of the first
kernel and of a gate, the entries of biases, norms and of a slope for each unit. The last kernel was
fitted again, but near to its old values: its rows keep the statistics of their gradients. A bypass
that takes over the bias of the last Dense takes over its state as well.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta

from lcjax.optim.entry_units import taken_in_entries
from lcjax.optim.taken import Taken
from lcjax.structure.chains.chain import Chain, join
from lcjax.structure.chains.find import find_chains
from lcjax.structure.sites import params_of
from lcjax.tree.paths import in_params, leaf_path


def taken_leaves(
    old_params: Any,
    removed: Iterable[str],
    units: Mapping[str, Any],
    new: Mapping[str, Any],
) -> dict[str, Taken]:
    """Returns where the leaves come from that the narrowing of some sites wrote, by their paths.

    Args:
      old_params: params or variables from before the collapse.
      removed: paths of the old params that are not in the tree any more.
      units: indices of the hidden units that stay, increasing, by site.
      new: the new params that surgery wrote, by path.
    """
    if not units:
        return {}
    leaves = jax.tree_util.tree_leaves_with_path(meta.unbox(old_params))
    old = {in_params(leaf_path(keys)): leaf for keys, leaf in leaves}
    found = taken_in_entries(old, removed, units, new)
    for chain in find_chains(params_of(old_params)):
        found |= _taken_in(chain, units)
    return {path: one for path, one in found.items() if path in new and one.fits(new[path])}


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
