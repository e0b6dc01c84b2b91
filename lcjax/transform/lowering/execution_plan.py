"""How a call runs with the tree that it is given."""

from collections.abc import Sequence
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
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.fusion import fused_substitution
from lcjax.transform.lowering.site_chains import fused_chains, why_no_site
from lcjax.transform.lowering.slope_substitution import slope_substitution
from lcjax.transform.matching.lost_outputs import Instead, lost_outputs
from lcjax.transform.params.keys import readable, strip_box_suffix


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
    for name, chain in fused_chains(call).items():
        scans = chain.sites[0].scans
        factors = [
            {leaf: execution.add(f"fused/{name}", array, scans) for leaf, array in factor.items()}
            for factor in call.params.factors[call.params.keys[name].sites]
        ]
        substitutions.append(fused_substitution(chain, factors))
    for site in call.analysis.sites:
        slope = call.params.slopes.get(site.path, {}).get("slope")
        if slope is not None and not _is_zero(slope):
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
            raise CollapseError(f"{path}: has a slope in this tree, but {why_no_site(call, path)}")
        shape = tuple(np.shape(slope["slope"]))
        if shape != sites[path].stack:
            raise CollapseError(
                f"{path}: got a slope of shape {shape}, expected {sites[path].stack}, one for "
                "every layer that a scan stacks. Make the tree again with `init`."
            )
