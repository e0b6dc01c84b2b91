"""From the tree that a call is given to the plan by which it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax.errors import CollapseError
from lcjax.transform.ir.interpreter import Env
from lcjax.transform.ir.program import Region, Value
from lcjax.transform.ir.rewrites import Rewrites, Substitution, make_rewrites
from lcjax.transform.lowering.fusion import fused
from lcjax.transform.lowering.segments import SiteChain
from lcjax.transform.lowering.slope_substitution import slope_substitution
from lcjax.transform.matching.find_sites import Analysis, MatchedSite
from lcjax.transform.matching.lost_outputs import Instead, lost_outputs
from lcjax.transform.matching.tracing import CallTrace
from lcjax.transform.params.keys import readable, strip_box_suffix
from lcjax.transform.params.tree import FunctionParams, factors_of, read_fused, removed_leaves

Place = tuple[Any, ...]


@dataclass
class ExecutionPlan:
    """A plan, and where in the tree the arrays are that it needs besides the function's own.

    Attributes:
      rewrites: how to run.
      places: of every value that is not the function's own, the path of its array in the parts.
      layers: what bodies of scans are handed besides.
      instead: what is returned for statistics of norms that were folded in; None for nothing.
    """

    rewrites: Rewrites = field(default_factory=Rewrites)
    places: dict[Value, Place] = field(default_factory=dict)
    layers: dict[Region, list[tuple[Value, Value]]] = field(default_factory=dict)
    instead: Instead = field(default_factory=dict)

    def add(self, place: Place, scans: Sequence[Region]) -> Value:
        """Returns the value that holds an array of the tree, or its layer in the scans' bodies."""
        inside = Value(None)
        self.places[inside] = place
        for scan in scans:
            layer = Value(None, scan, layer_of=inside)
            self.layers.setdefault(scan, []).append((layer, inside))
            inside = layer
        return inside


def plan_execution(traced: CallTrace, parts: FunctionParams) -> ExecutionPlan:
    """Returns how a call runs with this tree.

    Slopes that are known to be 0 bend nothing: the function runs as it is.

    Raises:
      CollapseError: the tree is of another function, or of another shape; names the site.
    """
    slopes = {path: slope["slope"] for path, slope in parts.slopes.items()}
    _check_slopes(traced.analysis, slopes)
    bends = [path for path, slope in slopes.items() if not _is_zero(slope)]
    return _make(traced, parts, bends)


def bind_arrays(
    traced: CallTrace,
    execution: ExecutionPlan,
    parts: FunctionParams,
    leaves: Sequence[Any],
    arrays: Sequence[Any],
) -> Env:
    """Returns the arrays that a call runs on, by the values that hold them.

    Args:
      traced: the call.
      execution: how it runs.
      parts: of the tree.
      leaves: of the model's params; ShapeDtypeStructs of those that are fused away.
      arrays: of the inputs.

    Raises:
      CollapseError: where a leaf is needed that is fused away; names it.
    """
    env: Env = {}
    for value, (part, key, *rest) in execution.places.items():
        if part == "slopes":
            array = parts.slopes[key]["slope"]
        else:
            factor, name = rest
            array = factors_of(parts.fused[key])[factor][name]
        if isinstance(array, jax.ShapeDtypeStruct):
            raise CollapseError(f"{part}/{key}: got {array}, wanted an array with values.")
        env[value] = jnp.asarray(array)
    gone = {strip_box_suffix(path) for path in removed_leaves(parts.fused)}
    program = traced.analysis.program
    for path, value, leaf in zip(traced.paths, program.leaves, leaves, strict=True):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            env[value] = leaf
        elif strip_box_suffix(path) not in gone:
            raise CollapseError(f"model/{readable(path)}: got {leaf}, wanted an array with values.")
        elif execution.rewrites.is_live(value):
            raise CollapseError(
                f"model/{readable(path)}: was fused away, and this call still needs it: it returns "
                "what a collapsed site no longer has, and not as the next value of a running "
                "statistic. Return less: leave out of what the function returns what belongs to "
                f"{', '.join(sorted(_fused_sites(parts)))}."
            )
    env.update(zip(program.inputs, arrays, strict=True))
    return env


def fused_chains(analysis: Analysis, parts: FunctionParams) -> dict[str, SiteChain]:
    """Returns the runs that are fused already, by their keys.

    Raises:
      CollapseError: when the function has no such run; names the site.
    """
    sites = {site.path: site for site in analysis.sites}
    runs = {}
    for key, entry in read_fused(parts.fused).items():
        for path in entry.sites:
            if path not in sites:
                raise CollapseError(f"{path}: is fused in this tree, and {_absent(analysis, path)}")
        run = SiteChain(tuple(sites[path] for path in entry.sites))
        _check_entry(key, run, factors_of(parts.fused[key]))
        runs[key] = run
    return runs


def _make(traced: CallTrace, parts: FunctionParams, bends: Sequence[str]) -> ExecutionPlan:
    execution, analysis = ExecutionPlan(), traced.analysis
    replacements: list[Substitution] = []
    for key, run in fused_chains(analysis, parts).items():
        scans = run.sites[0].scans
        factors = [
            {name: execution.add(("fused", key, i, name), scans) for name in factor}
            for i, factor in enumerate(factors_of(parts.fused[key]))
        ]
        replacements.append(fused(run, factors))
    for site in analysis.sites:
        if site.path in bends:
            slope = execution.add(("slopes", site.path), site.scans)
            replacements.append(slope_substitution(site.match, slope, analysis.dependences))
    gone = {strip_box_suffix(path) for path in removed_leaves(parts.fused)}
    program = analysis.program
    paths = dict(zip([*program.leaves, *program.state], traced.leaf_paths, strict=True))
    execution.instead = lost_outputs(
        program,
        paths,
        dict(zip(program.outs, traced.out_paths, strict=True)),
        [leaf for leaf in program.leaves if strip_box_suffix(paths[leaf]) in gone],
        [each.op for each in replacements if not each.keep_original],
    )
    execution.rewrites = make_rewrites(replacements, execution.layers, execution.instead)
    return execution


def _fused_sites(parts: FunctionParams) -> set[str]:
    return {path for entry in read_fused(parts.fused).values() for path in entry.sites}


def _is_zero(slope: Any) -> bool:
    known = hasattr(slope, "__array__") and not isinstance(slope, Tracer)
    return known and not np.any(np.asarray(slope))


def _check_slopes(analysis: Analysis, slopes: Mapping[str, Any]) -> None:
    sites = {site.path: site for site in analysis.sites}
    for path, slope in slopes.items():
        if path not in sites:
            raise CollapseError(f"{path}: has a slope in this tree, and {_absent(analysis, path)}")
        if tuple(np.shape(slope)) != sites[path].stack:
            raise CollapseError(
                f"{path}: slope has shape {tuple(np.shape(slope))}, wanted {sites[path].stack}, "
                "one for every layer that a scan stacks. Make the tree anew with `init`."
            )


def _absent(analysis: Analysis, path: str) -> str:
    reasons = [reason for name, reason in analysis.rejected if name == path]
    if reasons:
        return f"the function has no such site in this call: {reasons[0]}."
    names = ", ".join(site.path for site in analysis.sites[:8]) or "none"
    return (
        f"the function has no such site (its sites: {names}). Pass a tree that `init`, `collapse` "
        "or a restore made for this function."
    )


def _check_entry(key: str, run: SiteChain, factors: Sequence[Mapping[str, Any]]) -> None:
    first: MatchedSite = run.sites[0]
    wanted = (*first.stack, run.first.d_in, run.last.d_out)
    got = (*factors[0]["kernel"].shape[:-1], factors[-1]["kernel"].shape[-1])
    if got != wanted:
        raise CollapseError(
            f"fused/{key}: the kernel is {got}, the function wants {wanted}. Pass a tree that was "
            "made for a function of these widths."
        )
