"""How a call runs with the tree that it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax.errors import CollapseError
from lcjax.transform.ir.interpreter import Env
from lcjax.transform.ir.program import Region, Value
from lcjax.transform.ir.rewrites import Rewrites, Substitution, make_rewrites
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.fusion import FusedChain, fused_substitution
from lcjax.transform.lowering.narrow_site import NarrowRun, narrow_run
from lcjax.transform.lowering.site_chains import SiteChain, fused_chains, why_no_site
from lcjax.transform.lowering.slope_substitution import slope_substitution
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.matching.lost_outputs import Instead, lost_outputs
from lcjax.transform.matching.unit_path import unit_path
from lcjax.transform.params.entries import FusedEntry, NarrowSite
from lcjax.tree.encoding import readable, strip_box_suffix


@dataclass
class ExecutionPlan:
    """The rewrites of a program, and the arrays of the tree that they read.

    Attributes:
      rewrites: what is computed otherwise, and what is left out.
      arrays: by the value that holds it, an array of the tree with its path.
      layers: what bodies of scans are handed in addition.
      instead: what is returned for statistics of norms that were folded in; None for nothing.
    """

    rewrites: Rewrites = field(default_factory=Rewrites)
    arrays: dict[Value, tuple[str, Any]] = field(default_factory=dict)
    layers: dict[Region, list[tuple[Value, Value]]] = field(default_factory=dict)
    instead: Instead = field(default_factory=dict)

    def add(self, path: str, array: Any, scans: Sequence[Region]) -> Value:
        """Returns the value that holds an array of the tree, or its layer in the scans' bodies."""
        inside = Value(None)
        self.arrays[inside] = path, array
        for scan in scans:
            layer = Value(None, scan, layer_of=inside)
            self.layers.setdefault(scan, []).append((layer, inside))
            inside = layer
        return inside


def plan_execution(call: BoundCall) -> ExecutionPlan:
    """Returns how a call runs with its tree.

    Slopes that are known to be 0 change nothing: the function's own activations run.

    Raises:
      CollapseError: the tree is of another function, or of another shape; names the site.
    """
    _check_slopes(call)
    execution = ExecutionPlan()
    substitutions: list[Substitution] = []
    for name, fused in fused_entries(call).items():
        scans = fused.chain.sites[0].scans

        def hold(array: Any, path: str = f"fused/{name}", scans: Any = scans) -> Value:
            return execution.add(path, array, scans)

        narrow = tuple(_with_slope(each, execution) for each in fused.narrow)
        bound = FusedChain(fused.chain, fused.entry.map(hold), narrow)
        substitutions.append(fused_substitution(bound))
    for site in call.analysis.sites:
        slope = call.params.slopes.get(site.path, {}).get("slope")
        if site.path not in call.params.narrow and slope is not None and not _is_zero(slope):
            value = execution.add(f"slopes/{site.path}", slope, site.scans)
            substitutions.append(slope_substitution(site.match, value, call.analysis.dependences))
    removed = {strip_box_suffix(path) for path in call.params.removed}
    program, names = call.program, call.leaf_names
    execution.instead = lost_outputs(
        program,
        names,
        dict(zip(program.outs, call.trace.out_paths, strict=True)),
        [leaf for leaf in program.leaves if strip_box_suffix(names[leaf]) in removed],
        [each.op for each in substitutions if not each.keep_original],
    )
    execution.rewrites = make_rewrites(substitutions, execution.layers, execution.instead)
    return execution


def fused_entries(call: BoundCall) -> dict[str, FusedChain]:
    """Returns the chains that are fused or keep some units, by their keys in the tree.

    Raises:
      CollapseError: an entry of another function, or of another shape; a site whose activation
        cannot run on some units.
    """
    found = {}
    for name, chain in fused_chains(call).items():
        entry, key = call.params.entries[name], call.params.keys[name]
        found[name] = fused_chain(call, chain, entry, key.narrow)
        for run, stored in zip(found[name].narrow, entry.narrow, strict=False):
            _check_vectors(name, run, stored, key.narrow[run.site.path])
    return found


def fused_chain(
    call: BoundCall, chain: SiteChain, entry: FusedEntry, narrow: Mapping[str, int]
) -> FusedChain:
    """Returns a chain of sites with what replaces it.

    Args:
      call: the call.
      chain: the sites.
      entry: what replaces them.
      narrow: how many units stay, by the sites that keep some.

    Raises:
      CollapseError: a site whose activation cannot run on some units.
    """
    runs = [
        narrow_run(chain, position, unit_path(call.analysis, site), _slope(call, site))
        for position, site in enumerate(chain.sites)
        if site.path in narrow
    ]
    return FusedChain(chain, entry, tuple(runs))


def _slope(call: BoundCall, site: MatchedSite) -> Any:
    """Returns a site's slope; None where it is known to be 0."""
    slope = call.params.slopes.get(site.path, {}).get("slope")
    return None if slope is None or _is_zero(slope) else slope


def _with_slope(run: NarrowRun, execution: ExecutionPlan) -> NarrowRun:
    """Returns a site with the value that holds its slope."""
    if run.slope is None:
        return run
    return replace(run, slope=execution.add(f"slopes/{run.site.path}", run.slope, ()))


def _check_vectors(name: str, run: NarrowRun, stored: NarrowSite, k: int) -> None:
    path = run.path
    expected = [(k,)] * len(path.vectors), path.gate is not None
    got = [tuple(np.shape(vector)) for vector in stored.vectors], bool(stored.gate)
    if got != expected:
        raise CollapseError(
            f"fused/{name}: got vectors of {got[0]}{' and a gate' * got[1]}, expected "
            f"{expected[0]}{' and a gate' * expected[1]}. Pass a tree that was made for this "
            "function, or call the function as it was called when the tree was made."
        )


def bind_arrays(call: BoundCall, execution: ExecutionPlan) -> Env:
    """Returns the arrays that a call runs on, by the values that hold them.

    Raises:
      CollapseError: a leaf that was fused is needed, or one has no values; names it.
    """
    env: Env = {}
    for value, (path, array) in execution.arrays.items():
        if isinstance(array, jax.ShapeDtypeStruct):
            raise CollapseError(f"{path}: got {array}, expected an array with values.")
        env[value] = jnp.asarray(array)
    removed = {strip_box_suffix(path) for path in call.params.removed}
    for path, value, leaf in zip(call.trace.paths, call.program.leaves, call.leaves, strict=True):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            env[value] = leaf
        elif strip_box_suffix(path) not in removed:
            name = f"model/{readable(path)}"
            raise CollapseError(f"{name}: got {leaf}, expected an array with values.")
        elif execution.rewrites.is_live(value):
            raise CollapseError(
                f"model/{readable(path)}: was fused away, and this call still needs it: it returns "
                "what a collapsed site no longer has, and not as the next value of a running "
                "statistic. Return less: leave out of what the function returns what belongs to "
                f"{', '.join(sorted(call.params.collapsed))}."
            )
    env.update(zip(call.program.inputs, call.inputs, strict=True))
    return env


def _is_zero(slope: Any) -> bool:
    known = hasattr(slope, "__array__") and not isinstance(slope, Tracer)
    return known and not np.any(np.asarray(slope))


def _check_slopes(call: BoundCall) -> None:
    sites = {site.path: site for site in call.analysis.sites}
    for path, slope in call.params.slopes.items():
        if path not in sites:
            if call.skips(path):
                continue
            raise CollapseError(f"{path}: has a slope in this tree, but {why_no_site(call, path)}")
        shape = tuple(np.shape(slope["slope"]))
        if shape != sites[path].stack:
            raise CollapseError(
                f"{path}: got a slope of shape {shape}, expected {sites[path].stack}, one for "
                "every layer that a scan stacks. Make the tree again with `init`."
            )
