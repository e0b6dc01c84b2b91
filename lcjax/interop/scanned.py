"""Models whose blocks are one scan: their weights are read block by block, then stacked."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.io.leaves import LeafPath


def unscanned(model: nn.Module) -> nn.Module:
    """Returns the model with one module per block; other models as they are."""
    return model.clone(scan_layers=False) if getattr(model, "scan_layers", False) else model


def stack_blocks(leaves: dict[LeafPath, jax.Array]) -> dict[LeafPath, jax.Array]:
    """Returns leaves by path with `block_0`, `block_1`, ... stacked as `blocks`.

    The given dict is emptied on the way, so that no more than one leaf is in memory twice.

    Example:
      >>> leaves = {("params", f"block_{i}", "bias"): jnp.ones(3) for i in (0, 1)}
      >>> stack_blocks(leaves)[("params", "blocks", "bias")].shape
      (2, 3)
    """
    groups: dict[LeafPath, dict[int, LeafPath]] = {}
    for leaf in leaves:
        place = [re.fullmatch(r"block_(\d+)", str(key)) for key in leaf]
        at = next((k for k, found in enumerate(place) if found), None)
        found = None if at is None else place[at]
        if at is None or found is None:
            groups[leaf] = {0: leaf}
        else:
            groups.setdefault((*leaf[:at], "blocks", *leaf[at + 1 :]), {})[int(found[1])] = leaf
    made = {}
    for name, group in groups.items():
        values = [leaves.pop(group[i]) for i in sorted(group)]
        made[name] = values[0] if name in group.values() else jnp.stack(values)
    return made
