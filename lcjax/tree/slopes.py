"""The slopes of a params tree: which leaves they are, which are selected, and maps over them.

An optimizer decides at `init` which leaves are slopes and keeps the answer in its state: a tree of
marks has a leaf where the params have a slope, `optax.MaskedNode` elsewhere.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lcjax.errors import CollapseError
from lcjax.tree.paths import leaf_path, site_of, slope_paths, surely_slope
from lcjax.tree.selection import Order, Weights, choose, weigh

_selecting: ContextVar[bool] = ContextVar("selecting", default=True)


@contextmanager
def without_selection() -> Iterator[None]:
    """Lets `init` select nothing, for a state into which the old selection is then carried."""
    token = _selecting.set(False)
    try:
        yield
    finally:
        _selecting.reset(token)


def selecting() -> bool:
    """Tells whether `init` selects sites: not within `without_selection`."""
    return _selecting.get()


def masked(node: Any) -> bool:
    """Tells whether a node is `optax.MaskedNode`, which marks what is no slope."""
    return isinstance(node, optax.MaskedNode)


def owned_slopes(
    params: Any, where: str | None = None, sites: Sequence[str] | str | None = None
) -> frozenset[str]:
    """Returns the paths of the leaves that are slopes of lcjax's activations.

    A leaf named `slope` beside other leaves of its module is the model's own. Where it is the only
    leaf of a module whose name lcjax would not give, nobody can know: `where` or `sites` then says
    whose it is, and what they do not name is the model's own.

    Raises:
      CollapseError: when neither is given and a leaf may be either; names it.
    """
    flat = jax.tree_util.tree_flatten_with_path(params, is_leaf=_place)[0]
    found = slope_paths(leaf_path(keys) for keys, _ in flat)
    sure = {path for path in found if surely_slope(path)}
    if sure == found:
        return found
    given = [[where]] if where is not None else []
    given += [[sites] if isinstance(sites, str) else list(sites)] if sites is not None else []
    if not given:
        path = min(found - sure)
        raise CollapseError(
            f"{path}: got a leaf named `slope` that may be the model's own parameter or that of a "
            "CollapsibleActivation; expected a module named `act_<i>` or "
            "`CollapsibleActivation_<i>`. Rename it, or name lcjax's sites with sites= or where=: "
            "a `slope` that they do not name trains as any other parameter."
        )

    def named(keys: Any) -> bool:
        site = site_of(keys)
        return all(any(_names(one, site) for one in patterns) for patterns in given)

    doubtful = {leaf_path(keys): keys for keys, _ in flat if leaf_path(keys) in found - sure}
    return frozenset(sure | {path for path, keys in doubtful.items() if named(keys)})


def slope_tree(
    params: Any,
    leaf: Callable[[str, Any], Any],
    where: str | None = None,
    sites: Sequence[str] | str | None = None,
) -> Any:
    """Returns a tree like params with `leaf(site, slope)` at slopes, MaskedNode elsewhere."""
    owned = owned_slopes(params, where, sites)

    def at(keys: Any, p: Any) -> Any:
        return leaf(site_of(keys), p) if leaf_path(keys) in owned else optax.MaskedNode()

    return jax.tree_util.tree_map_with_path(at, params)


def on_slopes(fn: Callable[..., Any], updates: Any, *trees: Any) -> Any:
    """Returns updates with those of slopes replaced by `fn(update, *leaves of the trees)`."""
    marks = slope_tree(updates, lambda site, _: site)
    return on_marked(lambda u, _, *rest: fn(u, *rest), updates, marks, *trees)


def on_marked(fn: Callable[..., Any], updates: Any, marks: Any, *trees: Any) -> Any:
    """Returns updates with `fn(update, mark, *leaves of the trees)` where marks has a leaf."""

    def at(u: Any, mark: Any, *rest: Any) -> Any:
        return u if masked(mark) or masked(u) else fn(u, mark, *rest)

    return jax.tree.map(at, updates, marks, *trees, is_leaf=masked)


def only_marked(fn: Callable[..., Any], marks: Any, *trees: Any) -> Any:
    """Returns a tree with `fn(mark, *leaves of the trees)` where marks has a leaf."""
    return jax.tree.map(
        lambda mark, *rest: mark if masked(mark) else fn(mark, *rest), marks, *trees, is_leaf=masked
    )


def selected(
    params: Any,
    last: Any,
    where: str | None,
    sites: Sequence[str] | str | None,
    order: Order | None = None,
) -> list[str]:
    """Returns the selected sites' paths; none within `without_selection`."""
    if not selecting():
        return []
    owned = owned_slopes(params, where, sites)
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = [site_of(keys) for keys, _ in flat if leaf_path(keys) in owned]
    return choose(paths, last=last, where=where, sites=sites, order=order)


def weighed(
    params: Any,
    last: Any,
    where: str | None,
    sites: Sequence[str] | str | None,
    weights: Weights | None,
    order: Order | None = None,
) -> dict[str, Any]:
    """Returns the weights of the selected sites; none within `without_selection`."""
    if not selecting():
        return {}
    chosen = selected(params, last, where, sites, order)
    return weigh(chosen, 1.0 if weights is None else weights, ordered=order is not None)


def with_slopes_from(tree: Any, other: Any, only: Collection[str] | None = None) -> Any:
    """Returns a tree with the slopes of another one, of these sites or all.

    Raises:
      CollapseError: when the other lacks the slope of a site; names it.
    """
    slopes, theirs = slopes_by_path(tree), slopes_by_path(other)
    by_site = {site: slope for site, slope in theirs.values()}

    def at(keys: Any, leaf: Any) -> Any:
        path = leaf_path(keys)
        if path not in slopes or (only is not None and slopes[path][0] not in only):
            return leaf
        site = slopes[path][0]
        if site not in by_site or jnp.shape(by_site[site]) != jnp.shape(leaf):
            raise CollapseError(
                f"slopes_from: got a tree without a slope of shape {jnp.shape(leaf)} at "
                f"{site or '(root)'}, expected one with the sites of the tree that is collapsed. "
                "Pass the raw params that it is an average or a copy of."
            )
        return by_site[site]

    return jax.tree_util.tree_map_with_path(at, tree)


def slopes_by_path(tree: Any) -> dict[str, tuple[str, Any]]:
    """Returns the sites and slopes of a tree by leaf path, whatever their modules are called."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_place)[0]
    found = slope_paths(leaf_path(keys) for keys, _ in flat)
    leaves = {leaf_path(keys): (site_of(keys), leaf) for keys, leaf in flat}
    return {path: leaves[path] for path in leaves if path in found}


def kept_patterns(sites: Iterable[Any] | None) -> tuple[Any, ...] | str | None:
    """Returns patterns, or an order, that can be iterated more than once."""
    return sites if sites is None or isinstance(sites, str) else tuple(sites)


def narrow(slope: Any) -> bool:
    """Tells whether a slope has fewer bits than float32: near 1 it moves in steps of 2⁻⁸ or so."""
    return jnp.finfo(jnp.result_type(slope)).bits < 32


def _names(pattern: str, site: str) -> bool:
    return site == pattern or fnmatchcase(site, pattern)


def _place(node: Any) -> bool:
    """Tells whether a node has the place of a leaf: masked, or None."""
    return node is None or masked(node)
