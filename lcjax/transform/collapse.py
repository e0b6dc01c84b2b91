"""From a tree whose sites have become linear to the smaller one."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from lcjax.algebra.boxes import box_dense
from lcjax.calibration.calibrate import Calibration, check_calibrated
from lcjax.surgery.report import CollapseReport, SegmentFit
from lcjax.transform.choosing import Method, check_inference, choose_sites
from lcjax.transform.lowering.execution_plan import fused_chains
from lcjax.transform.lowering.segments import (
    EarlierFactors,
    SiteChain,
    fuse_run,
    site_chains,
    summary,
    weights_of,
)
from lcjax.transform.matching.find_sites import Analysis, MatchedSite
from lcjax.transform.matching.tracing import CallTrace
from lcjax.transform.params.keys import FusedKey, encode, strip_box_suffix
from lcjax.transform.params.tree import (
    FunctionParams,
    entry_of,
    factors_of,
    read_fused,
    read_params,
    remove_leaves,
)
from lcjax.transform.sites import sites_of
from lcjax.tree.paths import leaf_path, slope_paths


def collapse_parts(
    traced: CallTrace,
    parts: FunctionParams,
    leaves: Sequence[Any],
    inputs: Sequence[Any],
    method: Method,
) -> tuple[dict[str, Any], CollapseReport]:
    """Returns the compact tree and the report.

    Args:
      traced: a call of the function.
      parts: of the tree.
      leaves: of the model's params; ShapeDtypeStructs of those that are fused away.
      inputs: arrays or ShapeDtypeStructs of the inputs, those of the state first.
      method: which sites, and what takes their place.

    Raises:
      CollapseError: as `CollapsibleFunction.collapse`.
    """
    found, held = traced.analysis, held_factors(traced.analysis, parts)
    gone = {path for paths in held for path in paths}
    chosen, kept = choose_sites(sites_of(found, parts, leaves), gone, method)
    changed = changed_runs(found, gone, chosen)
    if isinstance(method.fit, Calibration):
        runs = [summary(run, held) for run in changed]
        weights = [weights_of(run, held, leaves, parts.slopes) for run in changed]
        check_calibrated(method.fit, runs, weights)
    arrays = dict(zip(found.program.leaves, leaves, strict=True))
    arrays |= dict(zip(found.program.state, inputs, strict=False))
    inside = {path for run in changed for path in run.paths}
    fused = {
        key: parts.fused[key]
        for key, each in read_fused(parts.fused).items()
        if not inside.intersection(each.sites)
    }
    factored: set[str] = set()
    fits: list[SegmentFit] = []
    after = 0
    for run in changed:
        factors, cuts, told = fuse_run(
            run, arrays, held, method.instead, apart=method.keeps_steps_apart
        )
        entry = _boxed(entry_of(factors), run, traced, parts)
        fused[str(_key(traced, run, leaves, factors))] = entry
        factored |= cuts
        fits += told
        after += _flops(factors)
    removed = {path for entry in read_fused(fused).values() for path in entry.removed}
    compact = {
        "model": remove_leaves(parts.model, removed),
        "slopes": {path: slope for path, slope in parts.slopes.items() if path not in chosen},
        "fused": fused,
    }
    was, now = _leaves(parts), _leaves(read_params(compact))
    collapsed = [site for site in found.sites if site.path in chosen]
    report = CollapseReport(
        gaps={site.path: _gap(site, parts) for site in collapsed},
        collapsed=tuple(site.path for site in collapsed),
        factors=tuple(site.path for site in collapsed if site.path in factored),
        kept=tuple(kept),
        new=tuple(path for path in now if now[path] is not was.get(path)),
        dropped=tuple(path for path in was if path not in now),
        parameters_before=_count(was),
        parameters_after=_count(now),
        flops_before=sum(_flops_before(run, held) for run in changed),
        flops_after=after,
        fits=tuple(fits),
    )
    return compact, report


def held_factors(analysis: Analysis, parts: FunctionParams) -> EarlierFactors:
    """Returns the factors that earlier collapses made, by the paths of their sites."""
    runs = fused_chains(analysis, parts)
    return {run.paths: factors_of(parts.fused[key]) for key, run in runs.items()}


def changed_runs(analysis: Analysis, gone: set[str], chosen: set[str]) -> list[SiteChain]:
    """Returns the runs that the chosen sites make with those that are gone.

    Raises:
      CollapseError: where the call runs as in training.
    """
    linear = [site for site in analysis.sites if site.path in chosen | gone]
    check_inference(linear)
    return [run for run in site_chains(linear) if chosen.intersection(run.paths)]


def _boxed(
    entry: dict[str, Any], run: SiteChain, traced: CallTrace, parts: FunctionParams
) -> dict[str, Any]:
    """Returns a fused Dense in boxes like those of the kernels that were matrices in boxes."""
    nodes = jax.tree_util.tree_leaves_with_path(parts.model, is_leaf=meta.is_axis_metadata)
    boxes = {encode(keys): node for keys, node in nodes if meta.is_axis_metadata(node)}
    paths = dict[Any, str](zip(traced.analysis.program.leaves, traced.paths, strict=True))
    first, last = (
        boxes.get(strip_box_suffix(paths[dense.leaf])) for dense in (run.first, run.last)
    )
    stacked = len(run.sites[0].stack)
    if first is None or last is None or "kernel" not in entry:
        return entry
    if any(meta.unbox(box).ndim != 2 + stacked for box in (first, last)):
        return entry
    return box_dense(entry, {"kernel": first}, {"kernel": last})


def _key(
    traced: CallTrace, run: SiteChain, leaves: Sequence[Any], factors: Sequence[Any]
) -> FusedKey:
    """Returns what the key of a run's entry says.

    Scalars of weak dtype (Python's) stay: shape and dtype do not say all that they are.
    """
    own = factors[-1]["kernel"].dtype
    removed = {
        traced.paths[i]: (
            tuple(leaves[i].shape),
            None if leaves[i].dtype == own else leaves[i].dtype.name,
        )
        for i in run.leaves
        if not jax.typeof(leaves[i]).weak_type
    }
    return FusedKey(run.paths, tuple(site.widths[1] for site in run.sites), removed)


def _flops_before(run: SiteChain, held: EarlierFactors) -> int:
    """Returns multiply-adds times two for one token through what a run is now, gates included."""
    earlier = [paths for paths in held if set(paths) <= set(run.paths)]
    gone = {path for paths in earlier for path in paths}
    inside = {d for site in run.sites if site.path in gone for d in site.products}
    own = {d for site in run.sites if site.path not in gone for d in site.products} - inside
    layers = math.prod(run.sites[0].stack)
    return 2 * layers * sum(dense.d_in * dense.d_out for dense in own) + sum(
        _flops(held[paths]) for paths in earlier
    )


def _flops(factors: Iterable[Mapping[str, Any]]) -> int:
    return 2 * sum(math.prod(factor["kernel"].shape) for factor in factors)


def _gap(site: MatchedSite, parts: FunctionParams) -> Any:
    slope = parts.slopes.get(site.path, {"slope": np.zeros(site.stack, np.float32)})["slope"]
    if isinstance(slope, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(slope.shape, jnp.float32)
    return jnp.abs(1 - jnp.asarray(slope)).astype(jnp.float32)


def _leaves(parts: FunctionParams) -> dict[str, Any]:
    """Returns the leaves of a whole tree by path."""
    flat = jax.tree_util.tree_flatten_with_path(parts._asdict())[0]
    return {leaf_path(keys): leaf for keys, leaf in flat}


def _count(leaves: Mapping[str, Any]) -> int:
    slopes = slope_paths(leaves)
    return sum(np.size(leaf) for path, leaf in leaves.items() if path not in slopes)
