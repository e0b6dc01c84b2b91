"""From a tree of narrowed pairs to the tree of a plain module of that hidden width."""

import re
from collections.abc import Mapping
from typing import Any

from flax.core import FrozenDict, freeze

from lcjax.errors import CollapseError
from lcjax.structure.chains.chain import join
from lcjax.structure.chains.find import find_chains, nodes
from lcjax.structure.rewrite import copy_dicts
from lcjax.structure.sites import params_of
from lcjax.tree.paths import node_at
from lcjax.validation.arguments import check_tree

_BYPASS = re.compile(r"bypass(_\d+)?")


def without_bypasses(variables: Mapping[str, Any]) -> Any:
    """Returns the tree with the bias of each bypass as the bias of the Dense that it is added to.

    Where `lcjax.Units` left the same number of hidden units in every MLP, this is the tree of the
    same module with that hidden width: lcjax's own, and any other of that architecture. The values
    stay the same.

    Args:
      variables: nested dicts: params alone, or variables with "params"; plain or FrozenDict. Not
        changed; leaves are shared with it.

    Raises:
      CollapseError: a bypass with a linear map, or one in whose place the pair was removed, which
        no plain module has; names the path.
      TypeError: a tree that is not nested dicts.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> variables = lcjax.CollapsibleMLP((16, 3), nn.relu).init(jax.random.key(1), x)
      >>> model, fit = lcjax.CollapsibleMLP((16, 3), nn.relu), lcjax.Units(8)
      >>> compact, report = lcjax.collapse_sequential(model.apply, variables, [x], fit=fit)
      >>> lcjax.CollapsibleMLP((8, 3), nn.relu).apply(lcjax.without_bypasses(compact), x).shape
      (64, 3)
    """
    check_tree(variables, "without_bypasses")
    params = params_of(variables)
    last_of = {
        join(chain.path, chain.bypass_name(i)): join(chain.path, chain.dense_name(chain.after(i)))
        for chain in find_chains(params)
        for i in chain.bypasses
    }
    plain = copy_dicts(params)
    for path, node in nodes(params):
        if not _BYPASS.fullmatch(path.rpartition("/")[2]) or "bias" not in node:
            continue
        if path not in last_of and set(node) == {"bias"}:
            raise CollapseError(
                f"{path}: got the bias of a removed pair, expected one next to hidden units: a "
                "plain module has both Dense layers. Keep some units: lcjax.Units(count)."
            )
        if path in last_of:
            if "kernel" in node:
                raise CollapseError(
                    f"{path}: got a linear map next to the units, expected a bias alone. Collapse "
                    "with lcjax.Units(count), without a linear map."
                )
            parent, _, name = path.rpartition("/")
            siblings = node_at(plain, parent)
            siblings[last_of[path].rpartition("/")[2]]["bias"] = siblings.pop(name)["bias"]
    whole = {**variables, "params": plain} if "params" in variables else plain
    return freeze(whole) if isinstance(variables, FrozenDict) else whole
