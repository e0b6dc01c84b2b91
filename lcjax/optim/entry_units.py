"""Where the leaves of a function's narrowed entries come from, found by their values.

The leaves of `fused` do not have the names of the model's. But the columns of units that stay are
those of one of the leaves that the entry replaced, value for value; the last kernel and its bias,
which are fitted again, are of what is left.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from lcjax.optim.taken import Taken
from lcjax.tree.encoding import readable
from lcjax.tree.fused_key import FusedKey

_LEAF = re.compile(r"fused/(?P<entry>.+)/(?P<part>(layers|gates|vectors|bypass)/.+)")


def taken_in_entries(
    old: Mapping[str, Any],
    removed: Iterable[str],
    units: Mapping[str, Any],
    new: Mapping[str, Any],
) -> dict[str, Taken]:
    """Returns where leaves of entries with one narrowed site come from, by their paths.

    A leaf that has the values of none or of several old ones is left out, as under `jax.jit`.

    Args:
      old: the old params by path.
      removed: paths of the old params that are not in the tree any more.
      units: indices of the hidden units that stay, by site.
      new: the new params that surgery wrote, by path.
    """
    entries: dict[str, dict[str, Any]] = {}
    for path, leaf in new.items():
        if found := _LEAF.fullmatch(path):
            entries.setdefault(found["entry"], {})[found["part"]] = leaf
    taken: dict[str, Taken] = {}
    for entry, leaves in entries.items():
        pool = {path: old[path] for path in removed if path in old and _names(entry, path)}
        sites = [site for site in units if FusedKey.parse(entry).sites == (site,)]
        if len(sites) == 1 and _have_values([*leaves.values(), *pool.values()]):
            own = _taken_in_entry(leaves, pool, np.asarray(units[sites[0]]))
            taken |= {f"fused/{entry}/{part}": one for part, one in own.items()}
    return taken


def _taken_in_entry(
    leaves: Mapping[str, Any], pool: dict[str, Any], units: np.ndarray
) -> dict[str, Taken]:
    found, left = {}, dict(pool)
    for part, leaf in leaves.items():
        if part.startswith(("layers/0/", "gates/", "vectors/")):
            same = [path for path, one in pool.items() if _is_cut(leaf, one, units)]
            if len(same) == 1:
                found[part] = Taken(same[0], tuple(pool[same[0]].shape), {-1: units})
                left.pop(same[0], None)
    if "layers/1/kernel" not in leaves:
        return found
    d_out = leaves["layers/1/kernel"].shape[-1]
    for part, axes in (("layers/1/kernel", {-2: units}), ("bypass/0/bias", {})):
        ndim = leaves[part].ndim if part in leaves else 0
        wide = [path for path, one in left.items() if one.ndim == ndim and one.shape[-1] == d_out]
        if ndim and len(wide) == 1 and len(pool[wide[0]]) > (units.max() if axes else 0):
            found[part] = Taken(wide[0], tuple(pool[wide[0]].shape), axes, refitted=True)
    return found


def _names(entry: str, path: str) -> bool:
    """Returns whether the key of an entry lists an old leaf among those that it replaced."""
    removed = map(readable, FusedKey.parse(entry).removed)
    return path.removeprefix("model/") in removed


def _have_values(leaves: Iterable[Any]) -> bool:
    return not any(isinstance(leaf, (Tracer, jax.ShapeDtypeStruct)) for leaf in leaves)


def _is_cut(leaf: Any, one: Any, units: np.ndarray) -> bool:
    if one.ndim != leaf.ndim or one.shape[:-1] != leaf.shape[:-1] or one.shape[-1] <= units.max():
        return False
    return bool((np.asarray(one)[..., units] == np.asarray(leaf)).all())
