"""Selection of sites by rules or by number from the last, and their weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from numbers import Real
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from lcjax._messages import describe
from lcjax.errors import CollapseError
from lcjax.tree.paths import natural_sort_key
from lcjax.tree.rules import Rule, is_rule, listed, matching

Weights = float | Sequence[float] | Mapping[Any, float]
Order = Iterable[Any]  # site paths, or Sites

NO_SITES = (
    "no sites: the tree has no leaf named `slope`; it was collapsed whole, or belongs to another "
    "model. Build the model with lcjax.CollapsibleMLP or lcjax.CollapsibleActivation and pass its "
    "params; for a model that you cannot change, or of Flax NNX, Equinox or Haiku, use "
    "f = lcjax.collapsible(apply_fn), f.init and f.trace."
)
_NEEDS_ORDER = (
    "Pass order=lcjax.find_sites(variables, apply_fn=model.apply, inputs=[x]).paths (of a "
    "collapsible function order=f.trace(params, x).sites.paths), or name sites with sites= or "
    "where= and weights with a mapping."
)


@dataclass(frozen=True, kw_only=True)
class SiteSelection:
    """Sites of a model, for `sites=` of the penalties and of `anneal_slopes`.

    Attributes:
      last: number of sites counted from the last (int), or their fraction (float in (0, 1],
        rounded, at least one), among those that `where` and `sites` select; None for all.
      where: a glob or `re.Pattern` over site paths.
      sites: paths, globs or `re.Pattern`s of the sites; each must match at least
        one.
      order: all site paths in forward order, as `find_sites(..., apply_fn=)` returns them; needed
        by `last` and by listed weights where names (encoder, decoder) do not show it.

    Example:
      >>> import lcjax
      >>> lcjax.SiteSelection(last=0.5, where="encoder/*").last
      0.5
    """

    last: int | float | None = None
    where: Rule | None = None
    sites: Rule | Iterable[Rule] | None = None
    order: Order | None = None

    def __post_init__(self):
        # Iterators can be read only once.
        if self.sites is not None:
            object.__setattr__(self, "sites", tuple(site_names(self.sites)))
        if isinstance(self.order, Iterable) and not isinstance(self.order, (str, tuple)):
            object.__setattr__(self, "order", tuple(self.order))


Selected = Rule | Iterable[Rule] | SiteSelection | None


def as_selection(sites: Selected) -> SiteSelection:
    """Returns a selection; rules alone are a selection of those sites."""
    return sites if isinstance(sites, SiteSelection) else SiteSelection(sites=sites)


def site_names(sites: Any) -> list[Rule]:
    """Returns the rules of a choice of sites.

    Args:
      sites: a path, glob or compiled regular expression, a site, an iterable of them, or what has
        them as its attribute `sites`.

    Raises:
      TypeError: something else.
    """
    if isinstance(sites, SiteSelection):
        raise TypeError(
            "sites is a SiteSelection, which penalties take; expected paths, globs, Sites or a "
            "Plan. Pass lcjax.select_sites(params, last=...), which returns paths."
        )
    if callable(sites):
        raise TypeError(
            f"sites is {describe(sites)}; expected paths, globs, Sites, a Plan or None. A metric "
            "comes third: (apply_fn, variables, metric, data); give sites=None for all."
        )
    sites = getattr(sites, "sites", sites)
    if is_rule(sites) or hasattr(sites, "path"):
        sites = [sites]
    if not isinstance(sites, Iterable):
        shown = f"{sites!r}, " if isinstance(sites, Real) else ""
        raise TypeError(
            f"sites is {shown}{describe(sites)}; expected paths, globs such as 'block_1/*', "
            "compiled regular expressions, Sites or a Plan. Give other arguments by name: "
            "fit=lcjax.Exact(max_gap=0.1), last=1. For a plan of lcjax.plan_fits call "
            "lcjax.collapse_sequential(..., fit=plan.fits)."
        )
    names = [getattr(site, "path", site) for site in sites]
    wrong = [name for name in names if not is_rule(name)]
    if wrong:
        raise TypeError(
            f"sites contains {describe(wrong[0])}; expected paths, globs such as 'block_1/*' or "
            "compiled regular expressions. lcjax.find_sites(variables).paths lists them; the order "
            "of arguments is (apply_fn, variables, data, sites)."
        )
    return names


def choose(
    paths: Iterable[str],
    *,
    last: int | float | None = None,
    where: Rule | None = None,
    sites: Rule | Iterable[Rule] | None = None,
    order: Order | None = None,
) -> list[str]:
    """Returns the selected ones of these site paths, in forward order.

    Without `order` the forward order is the natural sort of the paths. It is known where names
    differ in a number (block_2, block_10), and unknown where they differ in a word (encoder,
    decoder). The arguments are the fields of `SiteSelection`.

    Raises:
      CollapseError: if there is no site, a pattern matches none, `order` lacks a site, or
        `last` needs an order that names do not show.
      ValueError: if `last` is out of range.

    Example:
      >>> choose(["block_10/act_0", "block_2/act_0"], last=1)
      ['block_10/act_0']
    """
    chosen = _in_order(set(paths), order)
    if not chosen:
        raise CollapseError(NO_SITES)
    if where is not None:
        chosen = matching(chosen, where)
    if sites is not None:
        patterns = site_names(sites)
        if not patterns:
            raise CollapseError(f"sites is empty. The sites are: {listed(chosen)}.")
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
        return sorted(paths, key=natural_sort_key)
    if isinstance(order, str):
        raise TypeError(f"order: got the string {order!r}, expected a sequence of site paths.")
    places = {getattr(site, "path", site): place for place, site in enumerate(order)}
    if missing := sorted(paths - places.keys(), key=natural_sort_key):
        raise CollapseError(
            f"order: got {listed(list(places)) or 'no path'}, expected every site; it lacks "
            f"{listed(missing)}. Pass the paths of lcjax.find_sites(..., apply_fn=) or of "
            "f.trace(...).sites."
        )
    return sorted(paths, key=places.__getitem__)


def check_forward_order(what: str, paths: Sequence[str]) -> None:
    """Raises CollapseError unless names give the order in which sites run."""
    _check_decided(what, combinations(paths, 2))


def _check_decided(what: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Raises CollapseError unless names give the forward order of every pair."""
    for first, second in pairs:
        parts = zip(natural_sort_key(first), natural_sort_key(second), strict=False)
        differ = next((pair for pair in parts if pair[0] != pair[1]), None)
        if differ is None or not all(isinstance(part, int) for part in differ):
            raise CollapseError(
                f"{what} needs the forward order, and names do not show whether {first!r} or "
                f"{second!r} runs first. {_NEEDS_ORDER}"
            )


def _count(last: int | float, available: int) -> int:
    if isinstance(last, (jax.Array, Tracer)):
        raise TypeError(
            "last: got an array, expected an int or a float, since `init` fixes the number of "
            "sites. Pass a Python number."
        )
    if isinstance(last, float) and 0 < last <= 1:
        return max(1, round(last * available))
    if isinstance(last, int) and not isinstance(last, bool) and 1 <= last <= available:
        return last
    raise ValueError(
        f"last is {last!r}; expected a number of sites from 1 to {available}, or a fraction in "
        "(0, 1] such as 0.5."
    )


def weigh(chosen: Sequence[str], weights: Weights, *, ordered: bool = True) -> dict[str, Any]:
    """Returns the weight of each selected site.

    Args:
      chosen: site paths in forward order.
      weights: one number for all, one for each selected site in forward order, or a mapping of
        paths, globs or `re.Pattern`s to numbers, of which the last counts; a site that the
        mapping does not name has weight 1.
      ordered: whether the forward order is known, not only the order of names.

    Raises:
      ValueError: if the number of weights differs from that of sites, or one is negative.
      CollapseError: if a pattern matches no selected site, or different weights are listed for
        sites whose order names do not give.
    """
    if isinstance(weights, Mapping):
        weight_of = dict.fromkeys(chosen, 1.0)
        for pattern, weight in weights.items():
            weight_of.update(dict.fromkeys(matching(chosen, pattern), float(weight)))
    else:
        listed = _listed_weights(chosen, weights)
        if isinstance(weights, Tracer):
            return listed
        weight_of = {path: float(weight) for path, weight in listed.items()}
        if not ordered:
            pairs = combinations(chosen, 2)
            unequal = (pair for pair in pairs if weight_of[pair[0]] != weight_of[pair[1]])
            _check_decided("a list of weights", unequal)
    for path, weight in weight_of.items():
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"{path}: weight is {weight}, must be finite and at least 0.")
    return weight_of


def _listed_weights(chosen: Sequence[str], weights: Any) -> dict[str, Any]:
    if np.ndim(weights) == 0:
        return dict.fromkeys(chosen, weights)
    if len(weights) != len(chosen):
        raise ValueError(
            f"weights has {len(weights)} numbers for {len(chosen)} sites: {listed(chosen)}."
        )
    return dict(zip(chosen, weights, strict=True))
