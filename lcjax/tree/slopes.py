"""The slopes of a params tree: which leaves they are, and maps over them.

An optimizer decides at `init` which leaves are slopes and stores the answer in its state: a tree of
marks has a leaf where the params have a slope, `optax.MaskedNode` elsewhere.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lcjax.errors import CollapseError
from lcjax.tree.paths import leaf_path, natural_sort_key, site_of, slope_paths, surely_slope
from lcjax.tree.rules import Rule, matches
from lcjax.tree.selection import Order, SiteSelection, choose, site_names


def slopes(tree: Any) -> dict[str, Any]:
    """Returns the slopes of a tree by site path, in natural order of the paths.

    Args:
      tree: params, variables, or a tree of their structure such as gradients; arrays,
        ShapeDtypeStructs or tracers. Flax, NNX and boxed trees, and trees of a collapsible
        function, have the same site paths.

    Returns:
      {site path: slope}; the leaves of the tree, of shape () or of a stack's leading axes, with one
      more axis where a site has a slope for each unit.

    Example:
      >>> import lcjax
      >>> lcjax.slopes({"act_0": {"slope": 0.25}, "dense_0": {"kernel": 1.0}})
      {'act_0': 0.25}
    """
    found = {site: leaf for site, leaf in slopes_by_path(tree).values() if not _is_place(leaf)}
    return {site: found[site] for site in sorted(found, key=natural_sort_key)}


def map_slopes(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Returns a tree whose slopes are replaced by `fn(slope, *leaves of the other trees)`.

    Args:
      fn: is called once for each slope.
      tree: params, variables, or a tree of their structure such as gradients.
      *rest: trees of the same structure.

    Example:
      >>> import lcjax
      >>> tree = {"act_0": {"slope": 0.25}, "dense_0": {"kernel": 2.0}}
      >>> lcjax.map_slopes(lambda slope: 1.0, tree)
      {'act_0': {'slope': 1.0}, 'dense_0': {'kernel': 2.0}}
    """
    found = slopes_by_path(tree)

    def at(keys: Any, leaf: Any, *others: Any) -> Any:
        return fn(leaf, *others) if leaf_path(keys) in found and not _is_place(leaf) else leaf

    return jax.tree_util.tree_map_with_path(at, tree, *rest, is_leaf=_is_place)


def count_parameters(variables: Any) -> int:
    """Returns the number of parameters, slopes not counted.

    Args:
      variables: the collection `params` is counted if there is one, the whole tree otherwise;
        arrays or ShapeDtypeStructs.

    Example:
      >>> import jax.numpy as jnp, lcjax
      >>> mlp = {"dense_0": {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}}
      >>> lcjax.count_parameters({"params": mlp | {"act_0": {"slope": jnp.zeros(())}}})
      36
    """
    is_whole = isinstance(variables, Mapping) and "params" in variables
    params = variables["params"] if is_whole else variables
    found = slopes_by_path(params)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(math.prod(np.shape(leaf)) for keys, leaf in leaves if leaf_path(keys) not in found)


def select_sites(
    params: Any,
    *,
    last: int | float | None = None,
    where: Rule | None = None,
    sites: Rule | Iterable[Rule] | None = None,
    order: Order | None = None,
) -> list[str]:
    """Returns the paths of the selected sites in forward order, as the optimizers select them.

    Args:
      params: any tree with leaves named `slope`; arrays or ShapeDtypeStructs.
      last: number of sites counted from the last (int) or their fraction (float); None for all.
      where: a glob or `re.Pattern` over site paths.
      sites: paths, globs or `re.Pattern`s.
      order: all site paths in forward order, as `find_sites(..., apply_fn=)` returns them; needed
        by `last` where names (encoder, decoder) do not show it.

    Raises:
      CollapseError: if there is no site, a pattern matches none, or names neither show the forward
        order nor whether a leaf named `slope` belongs to lcjax.
      ValueError: if `last` is out of range.

    Example:
      >>> import lcjax
      >>> params = {f"block_{i}": {"act_0": {"slope": 0.0}} for i in (2, 10)}
      >>> lcjax.select_sites(params, last=1)
      ['block_10/act_0']
    """
    return selected(params, SiteSelection(last=last, where=where, sites=sites, order=order))


def selected(params: Any, selection: SiteSelection) -> list[str]:
    """Returns the paths of the selected sites in forward order."""
    owned = owned_slopes(params, selection)
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = (site_of(keys) for keys, _ in flat if leaf_path(keys) in owned)
    return choose(paths, **vars(selection))


def masked(node: Any) -> bool:
    """Returns whether a node is `optax.MaskedNode`, the mark of a leaf that is not a slope."""
    return isinstance(node, optax.MaskedNode)


def owned_slopes(params: Any, selection: SiteSelection) -> frozenset[str]:
    """Returns the paths of the leaves that are slopes of lcjax's activations.

    A leaf named `slope` with other leaves in its module belongs to the model. If it is the only
    leaf of a module that has another name than lcjax gives, its owner is unknown: then `where` or
    `sites` of the selection decide, and it belongs to the model unless they match it.

    Raises:
      CollapseError: if neither is given and the owner of a leaf is unknown; names the leaf.
    """
    flat = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_place)[0]
    found = slope_paths(leaf_path(keys) for keys, _ in flat)
    sure = {path for path in found if surely_slope(path)}
    if sure == found:
        return found
    where, sites = selection.where, selection.sites
    given = [[where]] if where is not None else []
    given += [site_names(sites)] if sites is not None else []
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
        return all(any(matches(site, one) for one in patterns) for patterns in given)

    doubtful = {leaf_path(keys): keys for keys, _ in flat if leaf_path(keys) in found - sure}
    return frozenset(sure | {path for path, keys in doubtful.items() if named(keys)})


def slopes_like(params: Any, leaf: Callable[[str, Any], Any], selection: SiteSelection) -> Any:
    """Returns a tree like params with `leaf(site, slope)` at slopes, MaskedNode elsewhere."""
    owned = owned_slopes(params, selection)

    def at(keys: Any, p: Any) -> Any:
        return leaf(site_of(keys), p) if leaf_path(keys) in owned else optax.MaskedNode()

    return jax.tree_util.tree_map_with_path(at, params)


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


def with_slopes_from(tree: Any, other: Any, only: Collection[str] | None = None) -> Any:
    """Returns a tree with the slopes of another tree, of these sites or all.

    Raises:
      CollapseError: if the other tree lacks the slope of a site; names it.
    """
    found, theirs = slopes_by_path(tree), slopes(other)

    def at(keys: Any, leaf: Any) -> Any:
        path = leaf_path(keys)
        if path not in found or (only is not None and found[path][0] not in only):
            return leaf
        site = found[path][0]
        if site not in theirs or jnp.shape(theirs[site]) != jnp.shape(leaf):
            raise CollapseError(
                f"slopes_from: got a tree without a slope of shape {jnp.shape(leaf)} at "
                f"{site or '(root)'}, expected one with the sites of the tree that is collapsed. "
                "Pass the raw params that it is an average or a copy of."
            )
        return theirs[site]

    return jax.tree_util.tree_map_with_path(at, tree)


def slopes_by_path(tree: Any) -> dict[str, tuple[str, Any]]:
    """Returns the sites and slopes of a tree by leaf path, for any names of their modules."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_place)[0]
    found = slope_paths(leaf_path(keys) for keys, _ in flat)
    leaves = {leaf_path(keys): (site_of(keys), leaf) for keys, leaf in flat}
    return {path: leaves[path] for path in leaves if path in found}


def narrow(slope: Any) -> bool:
    """Returns whether a slope has fewer bits than float32: steps near 1 are then 2⁻⁸ or larger."""
    return jnp.finfo(jnp.result_type(slope)).bits < 32


def _is_place(node: Any) -> bool:
    """Returns whether a node is in the place of a leaf: masked, or None."""
    return node is None or masked(node)
