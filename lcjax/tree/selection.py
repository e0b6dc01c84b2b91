"""Which sites are meant: by path, by glob, by how many from the last, and with what weight."""

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations, product
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from lcjax.errors import CollapseError
from lcjax.tree.paths import in_params, natural
from lcjax.validation.arguments import NO_SITES, check_sites

Weights = float | Sequence[float] | Mapping[str, float]
Order = Iterable[Any]  # site paths, or Sites

_NEEDS_ORDER = (
    "Pass order=lcjax.find_sites(variables, apply_fn=model.apply, inputs=[x]).paths (of a "
    "collapsible function order=f.sites(params, x).paths), or name sites with sites= or where= and "
    "weights with a mapping."
)


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(path or "(root)" for path in paths[:8])
    return shown + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")


def matching(paths: Sequence[str], pattern: str) -> list[str]:
    """Returns the site paths that a path or glob names; `*` crosses slashes.

    Raises:
      CollapseError: when it names none; lists the sites there are.
    """
    found = [path for path in paths if path == pattern]
    found = found or [path for path in paths if fnmatchcase(path, in_params(pattern))]
    if not found:
        raise CollapseError(
            f"{pattern!r} matches no site. The sites are: {_listed(paths) or 'none'}. "
            "Name some of them, or give a glob such as '*'; capitals count."
        )
    return found


def choose(
    paths: Iterable[str],
    *,
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
    order: Order | None = None,
) -> list[str]:
    """Returns the chosen ones of these site paths, in forward order.

    Without `order` that is the natural sort of the paths. Names decide it where they differ in a
    number (block_2, block_10), and cannot where they differ in a word (encoder, decoder).

    Args:
      paths: the sites there are.
      last: how many sites from the last backwards (int), or which fraction of them (float in
        (0, 1], rounded, at least one); counted among those that `where` and `sites` leave.
      where: a glob over site paths.
      sites: paths or globs of the sites; each must name at least one.
      order: all site paths in forward order, as `find_sites(..., apply_fn=)` has them.

    Raises:
      CollapseError: when there is no site, a pattern matches none, `order` lacks a site, or
        `last` needs an order that names do not decide.
      ValueError: when `last` is out of range.
    """
    chosen = _in_order(set(paths), order)
    if not chosen:
        raise CollapseError(NO_SITES)
    if where is not None:
        chosen = matching(chosen, where)
    if sites is not None:
        check_sites(sites)
        patterns = [sites] if isinstance(sites, str) else list(sites)
        if not patterns:
            raise CollapseError(f"sites is empty. The sites are: {_listed(chosen)}.")
        named = {path for pattern in patterns for path in matching(chosen, pattern)}
        chosen = [path for path in chosen if path in named]
    if last is None:
        return chosen
    rest = len(chosen) - _count(last, len(chosen))
    if order is None:
        _check_decided(f"last={last!r}", product(chosen[:rest], chosen[rest:]))
    return chosen[rest:]


def _in_order(paths: set[str], order: Order | None) -> list[str]:
    if order is None:
        return sorted(paths, key=natural)
    if isinstance(order, str):
        raise TypeError(f"order: got the string {order!r}, expected a sequence of site paths.")
    places = {getattr(site, "path", site): place for place, site in enumerate(order)}
    if missing := sorted(paths - places.keys(), key=natural):
        raise CollapseError(
            f"order: got {_listed(list(places)) or 'no path'}, expected every site; it lacks "
            f"{_listed(missing)}. Pass the paths of lcjax.find_sites(..., apply_fn=) or f.sites."
        )
    return sorted(paths, key=places.__getitem__)


def check_forward_order(what: str, paths: Sequence[str]) -> None:
    """Raises CollapseError where names do not tell in which order sites run."""
    _check_decided(what, combinations(paths, 2))


def _check_decided(what: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Raises CollapseError where names do not tell which of a pair runs first."""
    for first, second in pairs:
        parts = zip(natural(first), natural(second), strict=False)
        differ = next((pair for pair in parts if pair[0] != pair[1]), None)
        if differ is None or not all(isinstance(part, int) for part in differ):
            raise CollapseError(
                f"{what} counts in forward order, and names do not tell whether {first!r} or "
                f"{second!r} runs first. {_NEEDS_ORDER}"
            )


def _count(last: int | float, available: int) -> int:
    if isinstance(last, (jax.Array, Tracer)):
        raise TypeError(
            "last: got an array, expected an int or a float. optax.inject_hyperparams makes arrays "
            'of numbers: pass it static_args=("last", "steps").'
        )
    if isinstance(last, float) and 0 < last <= 1:
        return max(1, round(last * available))
    if isinstance(last, int) and not isinstance(last, bool) and 1 <= last <= available:
        return last
    raise ValueError(
        f"last is {last!r}; wanted a number of sites from 1 to {available}, the number there is, "
        "or a fraction in (0, 1] such as 0.5."
    )


def weigh(chosen: Sequence[str], weights: Weights, *, ordered: bool = True) -> dict[str, Any]:
    """Returns a weight for each chosen site.

    Args:
      chosen: site paths in forward order.
      weights: one number for all, one for each chosen site in forward order, or a mapping of paths
        or globs to numbers, in which a site that nothing names weighs 1.
      ordered: whether the forward order is known, not only that of names.

    Raises:
      ValueError: when the number of weights is another than that of sites, or one is negative.
      CollapseError: when a pattern matches no chosen site, or different weights are listed for
        sites whose order names do not decide.
    """
    if isinstance(weights, Mapping):
        weighed = dict.fromkeys(chosen, 1.0)
        for pattern, weight in weights.items():
            weighed.update(dict.fromkeys(matching(chosen, pattern), float(weight)))
    else:
        listed = _listed_weights(chosen, weights)
        if isinstance(weights, Tracer):
            return listed
        weighed = {path: float(weight) for path, weight in listed.items()}
        if not ordered:
            pairs = combinations(chosen, 2)
            unequal = (pair for pair in pairs if weighed[pair[0]] != weighed[pair[1]])
            _check_decided("a list of weights", unequal)
    for path, weight in weighed.items():
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"{path}: weight is {weight}, must be finite and at least 0.")
    return weighed


def _listed_weights(chosen: Sequence[str], weights: Any) -> dict[str, Any]:
    if np.ndim(weights) == 0:
        return dict.fromkeys(chosen, weights)
    if len(weights) != len(chosen):
        raise ValueError(
            f"weights has {len(weights)} numbers for {len(chosen)} sites: {_listed(chosen)}."
        )
    return dict(zip(chosen, weights, strict=True))
