"""First optimizer states of leaves that surgery made, from the states of their source leaves.

A leaf that starts with a second moment of 0 and a count of many steps gets no bias correction:
Adam's first updates would be 5 times their stationary size, adafactor's 16 times. Therefore its
second moment starts, in every element, at the level of its source leaves: the largest of their
means. First moments start at 0, and updates grow to their size as under a warm-up.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.tree.paths import is_slope_path

# Fields of optax's states with second moments and other magnitudes of gradients or steps.
LEVELS = {"nu", "nu_max", "v", "v_row", "v_col", "n", "sum_of_squares", "exp_avg_sq"}
LEVELS |= {"grad_sum_sq", "e_g", "e_x", "step_sizes", "scale", "subgradients", "reward"}
_FACTORED = ("v", "v_row", "v_col")


def origins(new: str, leaf: Any, old: Mapping[str, Any], removed: Iterable[str]) -> list[str]:
    """Returns the paths of the old params that surgery made a new param of.

    Among the removed and rewritten leaves those that share the longest part of its path, with its
    name or else its number of axes.

    Args:
      new: path of the new param.
      leaf: the new param.
      old: the old params by path.
      removed: paths of the old params that were removed or rewritten.
    """
    near = [path for path in removed if path in old and not is_slope_path(path)]
    name = new.rpartition("/")[2]
    alike = [path for path in near if path.rpartition("/")[2] == name]
    alike = alike or [path for path in near if np.ndim(old[path]) == np.ndim(leaf)] or near
    shared = {path: _shared(path, new) for path in alike}
    return [path for path in alike if shared[path] == max(shared.values())]


def seeded(
    fresh: Any, owner: str, path: str, sources: Sequence[str], old: Mapping[str, Any], belief: bool
) -> Any:
    """Returns the first value of a new param's state.

    Args:
      fresh: the value that `init` gives.
      owner: path of the new param.
      path: of the leaf of the state; it ends in owner.
      sources: paths of the params that the new param was made of.
      old: the leaves of the old state by path.
      belief: whether the state predicts gradients by their first moment `mu`, which starts at 0,
        so that the first errors of its prediction are the gradients themselves.
    """
    before = path[: len(path) - len(owner)]
    name = field_of(before)
    if name not in LEVELS or not jnp.issubdtype(jnp.result_type(fresh), jnp.floating):
        return fresh
    found = _values(before, name, name, sources, old)
    if name in _FACTORED:  # a matrix has either v, or v_row and v_col; else one zero
        each = [_values(before, name, one, sources, old) for one in _FACTORED]
        found = [value for values in each for value in values if value.size > 1] or found
    if not found:
        return fresh
    usable = jnp.stack([(value >= 0).all() for value in found]).all()
    level = jnp.stack([jnp.mean(value, dtype=jnp.float32) for value in found]).max()
    if belief:
        firsts = _values(before, name, "mu", sources, old)
        squares = [jnp.mean(jnp.square(value), dtype=jnp.float32) for value in firsts]
        level = jnp.stack([level, *squares]).max()
    usable &= jnp.isfinite(level)
    return jnp.where(usable, level.astype(fresh.dtype), fresh)


def field_of(before: str) -> str:
    """Returns the field of optax's state that a path without its param's path ends in."""
    return before.removesuffix("params/").removesuffix("/").rpartition("/")[2]


def _values(
    before: str, name: str, field: str, sources: Sequence[str], old: Mapping[str, Any]
) -> list[jax.Array]:
    """Returns the values of a field of the same state for the sources."""
    start, _, end = before.rpartition(name + "/")
    paths = [f"{start}{field}/{end}{path}" for path in sources]
    return [jnp.asarray(old[path]) for path in paths if path in old]


def _shared(one: str, other: str) -> int:
    pairs = list(zip(one.split("/")[:-1], other.split("/")[:-1], strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
