"""The sites of a tree: its activations, how linear they are, and what fusing them would save."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lcjax.algebra.abstract import is_abstract
from lcjax.algebra.fuse import cheapest_cuts, dense_flops, parameters
from lcjax.errors import CollapseError
from lcjax.nn.activations import CollapsibleActivation, CollapsibleGate
from lcjax.structure.chains.chain import Chain
from lcjax.structure.chains.find import find_chains
from lcjax.tree.paths import FUNCTION_TREE_PARTS, natural_sort_key
from lcjax.tree.sites import Site, Sites
from lcjax.tree.slopes import slopes_by_path
from lcjax.tree.units import of_units
from lcjax.validation.arguments import check_tree
from lcjax.validation.functions import check_function, check_inputs, explained
from lcjax.validation.modules import check_no_module


def find_sites(
    variables: Any,
    *,
    apply_fn: Callable[..., Any] | None = None,
    inputs: Sequence[Any] = (),
) -> Sites:
    """Returns the sites of a tree, in forward order.

    The order is the natural sort of the paths (block_2 before block_10). Where a model's names do
    not follow its forward order, `apply_fn` is traced to find the true one; nothing is computed.

    Args:
      variables: params, or variables with "params"; plain, frozen or boxed; arrays or
        ShapeDtypeStructs, whose slopes are then None.
      apply_fn: a Flax apply function; `apply_fn(variables, *inputs)` runs the model.
      inputs: the arguments of apply_fn after the variables; arrays or ShapeDtypeStructs.

    Raises:
      CollapseError: when the tree is half collapsed or its kernels do not compose, or is that of a
        collapsible function.
      TypeError: something other than a tree, such as an NNX module or a TrainState.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 16, 3), jax.nn.relu)
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
      >>> lcjax.find_sites(variables).paths
      ('act_0', 'act_1')
    """
    check_not_function_tree(variables)
    check_no_module(variables, "find_sites")
    check_tree(variables, "find_sites", nested=False)
    params = params_of(variables)
    found = sites_of(params, find_chains(params))
    if apply_fn is None:
        return found
    traced = forward_order(apply_fn, variables, inputs)
    places = {path: place for place, path in enumerate(traced)}
    return Sites(sorted(found, key=lambda site: places.get(site.path, len(places))))


def sites_of(params: Any, chains: Iterable[Chain]) -> Sites:
    """Returns the sites of params, in natural order of their paths.

    Args:
      params: boxed or not.
      chains: those that `find_chains` found in them.
    """
    found = {chain.site(i): _site(chain, i) for chain in chains for i in chain.acts}
    for path, leaf in slopes_by_path(params).values():
        found.setdefault(path, Site(path=path, slope=worst_slope(leaf)))
    return Sites(found[path] for path in sorted(found, key=natural_sort_key))


def check_not_function_tree(variables: Any) -> None:
    """Raises CollapseError for the tree of a collapsible function, which is not nested modules."""
    if isinstance(variables, Mapping) and set(variables) == FUNCTION_TREE_PARTS:
        raise CollapseError(
            "got the tree of a collapsible function, whose sites only the function knows. With "
            "call = lcjax.collapsible(fn).trace(params, *inputs), take call.sites, call.collapse."
        )


def params_of(variables: Any) -> Any:
    """Returns the params of whole variables, or the tree itself where it is params already."""
    try:
        return variables["params"]
    except (KeyError, TypeError, IndexError):
        return variables


def forward_order(apply_fn: Callable[..., Any], variables: Any, inputs: Sequence[Any]) -> list[str]:
    """Returns the paths of the sites in the order in which a Flax apply function runs them."""
    check_function(apply_fn)
    check_inputs(inputs)
    seen: dict[str, None] = {}

    def record(next_fn, args, kwargs, context):
        if isinstance(context.module, (CollapsibleActivation, CollapsibleGate)):
            seen.setdefault("/".join(context.module.path))
        return next_fn(*args, **kwargs)

    with explained(apply_fn, variables, inputs, "the input"), nn.intercept_methods(record):
        jax.eval_shape(lambda tree, xs: apply_fn(tree, *xs), variables, tuple(inputs))
    return list(seen)


def _site(chain: Chain, i: float) -> Site:
    before, after = chain.around(i)
    (first, *_), (*_, second) = before, after
    d_in, d_out = first["kernel"].shape[-2], second["kernel"].shape[-1]
    shape = before[-1]["kernel"].shape
    slope, bypass = chain.acts[i], chain.bypasses.get(i, {})
    denses = [*before, *after, bypass, *chain.gates.values()]
    parts = [*denses, chain.norms.get(i, {})]
    site = Site(
        path=chain.site(i),
        slope=worst_slope(slope),
        d_in=d_in,
        d_hidden=shape[-1],
        d_out=d_out,
        parameters_before=sum(math.prod(leaf.shape) for part in parts for leaf in part.values()),
        flops_before=dense_flops(denses),
        layers=math.prod(shape[:-2]),
        linear_units=linear_units(slope) if of_units(slope.shape, shape) else None,
    )
    biased = "bias" in second or "bias" in bypass or i in chain.norms
    return with_savings(site, "bias" in before[-1], biased, linear="kernel" in bypass)


def with_savings(site: Site, first: bool, second: bool, *, linear: bool = False) -> Site:
    """Returns a paired site with its costs after a collapse.

    Args:
      site: with its costs before.
      first: whether the Dense before the activation has a bias.
      second: whether the Dense after it has one, or gets one from a norm folded into it.
      linear: whether a linear map runs next to the units, so that factors are as wide as its input
        besides.
    """
    hidden = site.d_hidden + site.d_in * linear
    widths, biased = (site.d_in, hidden, site.d_out), (first, second)
    cuts = cheapest_cuts(widths, biased)
    after = site.layers * parameters(widths, cuts, biased)
    return replace(
        site,
        parameters_after=after,
        flops_after=2 * site.layers * parameters(widths, cuts),
        fusing_saves=len(cuts) == 2 and after < site.parameters_before,
    )


def worst_slope(slope: Any) -> float | None:
    """Returns the slope, of several the one farthest from 1; NaN where any is not finite."""
    if is_abstract(slope):
        return None
    flat = np.asarray(slope, np.float64).reshape(-1)
    return float(flat[np.argmax(np.abs(1 - flat))]) if np.isfinite(flat).all() else math.nan


def linear_units(slope: Any) -> int | None:
    """Returns how many slopes are exactly 1; None where they are traced or abstract."""
    if is_abstract(slope):
        return None
    return int((np.asarray(slope) == 1).sum())


def require_finite_gap(site: Site) -> float:
    """Returns a site's gap.

    Raises:
      CollapseError: when the slope is NaN or infinite; names the site.
    """
    if site.gap is None or not math.isfinite(site.gap):
        raise CollapseError(
            f"{site.path}: the slope is {site.slope}, not a finite number: training has diverged. "
            "Restore an earlier checkpoint."
        )
    return site.gap
