"""The sites of a tree: its activations, how linear they are, and what fusing them would save."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lcjax._table import render
from lcjax.algebra.abstract import is_abstract
from lcjax.algebra.fuse import cheapest_cuts, dense_flops, parameters
from lcjax.errors import CollapseError
from lcjax.nn.activations import CollapsibleActivation, CollapsibleGate
from lcjax.structure.chains import Chain, find_chains
from lcjax.tree.paths import FUNCTION_TREE_PARTS, natural_sort_key
from lcjax.tree.selection import NO_SITES
from lcjax.tree.slopes import slopes_by_path
from lcjax.tree.units import of_units
from lcjax.validation.arguments import check_tree
from lcjax.validation.functions import check_function, check_inputs, explained
from lcjax.validation.modules import check_no_module


@dataclass(frozen=True, kw_only=True)
class Site:
    """A collapsible activation with the Dense before it and the Dense after it.

    Attributes:
      path: inside params, such as `block_3/mlp/act_0`.
      slope: α; of layers stacked by `nn.scan`, and of units with slopes of their own, the one
        farthest from 1; None where it is abstract.
      d_in: input width of the Dense before, with that of a bypass added to its output; 0 where
        the site is unpaired.
      d_hidden: width of the activation; 0 where the site is unpaired.
      d_out: output width of the Dense after; 0 where the site is unpaired.
      parameters_before: in the Dense layers (and gate, norm, bypass) that fusing replaces.
      parameters_after: in what replaces them.
      flops_before: multiply-adds times two for one token through those matrices.
      flops_after: the same once collapsed.
      layers: how many layers `nn.scan` stacked in this site, or experts of a traced function; they
        collapse together.
      fusing_saves: whether one matrix, with its bias, has fewer parameters than two with theirs,
        and than there are now. About `d_in d_out < d_hidden (d_in + d_out)`.
      linear_units: of a site with a slope for each unit, how many are exactly 1, over all layers;
        None of other sites, and where slopes are abstract.
      experts: how many of the stacked layers are experts, each of which is fitted to its own
        tokens; 1 where there are none.
    """

    path: str
    slope: float | None
    d_in: int = 0
    d_hidden: int = 0
    d_out: int = 0
    parameters_before: int = 0
    parameters_after: int = 0
    flops_before: int = 0
    flops_after: int = 0
    layers: int = 1
    fusing_saves: bool = False
    linear_units: int | None = None
    experts: int = 1

    @property
    def gap(self) -> float | None:
        """`|1 − α|`, how far the activation is from the identity; None where abstract."""
        return None if self.slope is None else abs(1 - self.slope)

    @property
    def paired(self) -> bool:
        """Whether there is a Dense on both sides, so that the site can be collapsed."""
        return self.d_hidden > 0


class Sites(tuple[Site, ...]):
    """Sites in forward order; prints as a table."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The sites' paths, in forward order."""
        return tuple(site.path for site in self)

    def __str__(self) -> str:
        """Returns the table, with the remedy for unpaired sites, or for no site, below it."""
        if not self:
            return NO_SITES
        headers = ["site", "slope", "gap", "d_in", "d_hidden", "d_out", "parameters", "→"]
        headers += ["FLOPs/token", "→", "fusing"]
        lines = [render(headers, [_row(site) for site in self])]
        if any(not site.paired for site in self):
            lines.append(
                "unpaired: this activation is not between `dense_i` and `dense_{i+1}` of one "
                "chain, so there is nothing to fuse. Build the pair with lcjax.CollapsibleMLP."
            )
        return "\n".join(lines)


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


def _site(chain: Chain, i: int) -> Site:
    first, second = chain.entered(i), chain.denses[chain.after(i)]
    d_in, d_hidden, d_out = first["kernel"].shape[-2], *chain.widths(i)[1:]
    shape = first["kernel"].shape
    slope, bypass = chain.acts[i], chain.bypasses.get(i, {})
    denses = [first, second, bypass, *([] if chain.gate is None else [chain.gate])]
    parts = [*denses, chain.norms.get(i, {})]
    site = Site(
        path=chain.site(i),
        slope=worst_slope(slope),
        d_in=d_in,
        d_hidden=d_hidden,
        d_out=d_out,
        parameters_before=sum(math.prod(leaf.shape) for part in parts for leaf in part.values()),
        flops_before=dense_flops(denses),
        layers=math.prod(shape[:-2]),
        linear_units=linear_units(slope) if of_units(slope.shape, shape) else None,
    )
    biased = "bias" in second or "bias" in bypass or i in chain.norms
    return with_savings(site, "bias" in first, biased, linear="kernel" in bypass)


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


def _row(site: Site) -> list[str]:
    slope = ["?", "?"] if site.slope is None else [f"{site.slope:.4f}", f"{site.gap:.4f}"]
    if site.linear_units is not None:
        slope[0] = f"{site.linear_units:,} of {site.layers * site.d_hidden:,} units linear"
    name = site.path or "(root)"
    if not site.paired:
        return [name, *slope, *["–"] * 7, "unpaired"]
    name += f" ×{site.layers}" if site.layers > 1 else ""
    sizes = [site.d_in, site.d_hidden, site.d_out, site.parameters_before, site.parameters_after]
    sizes += [site.flops_before, site.flops_after]
    pays = "pays" if site.fusing_saves else "grows"
    return [name, *slope, *(f"{size:,}" for size in sizes), pays]


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
