"""Calibration of a function: moments of what flows through its sites."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lcjax.calibration.calibrate import Calibration, Fit, pairs_of
from lcjax.calibration.capture import into, out_of
from lcjax.calibration.masks import Mask
from lcjax.calibration.statistics import gather
from lcjax.errors import CollapseError
from lcjax.structure.choice import Choice, to_fit
from lcjax.transform.analysis.axes import AxisRole, AxisRoles
from lcjax.transform.collapse import changed_runs, held_factors
from lcjax.transform.ir.interpreter import Env, read, run
from lcjax.transform.ir.program import scans_around
from lcjax.transform.lowering.execution_plan import bind_arrays, plan_execution
from lcjax.transform.lowering.joints import joint_units, select_units
from lcjax.transform.lowering.segments import SiteChain, output_tokens, summary, weights_of
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.matching.tracing import CallTrace
from lcjax.transform.params.tree import FunctionParams
from lcjax.transform.sites import sites_of
from lcjax.validation.batches import as_batch, check_batches

# Traces a call: the call, the parts of the tree, the leaves of the model and those of the inputs.
Open = Callable[[Any, Sequence[Any]], tuple[CallTrace, FunctionParams, list[Any], list[Any]]]

# Sets these names apart from those of a Flax function's own modules.
_FOLDER = "function/"


def calibrate_function(
    open_call: Open,
    params: Any,
    batches: Iterable[Any],
    sites: Choice,
    *,
    fit: Fit,
    mask: Mask | None,
    holdout: float,
    progress: bool,
) -> Calibration:
    """Returns what `CollapsibleFunction.calibrate` does."""
    check_batches(batches)
    waiting = iter(batches)
    first = next(waiting, None)
    if first is None:
        raise ValueError("batches is empty: give at least one batch of the function's arguments.")
    traced, parts, leaves, _ = open_call(params, as_batch(first))
    held = held_factors(traced.analysis, parts)
    gone = {path for paths in held for path in paths}
    chosen, _ = to_fit(sites_of(traced.analysis, parts, leaves), sites)
    changed = _runs(traced, gone, chosen)
    runs = tuple(summary(run, held) for run in changed)
    pairs = tuple(
        pair._replace(source=_renamed(pair.source), target=_renamed(pair.target))
        for pair in pairs_of(runs, fit)
    )
    gathered = gather(
        _Named(open_call, frozenset(gone), frozenset(chosen), fit),
        params,
        chain([first], waiting),
        pairs,
        mask=mask,
        holdout=holdout,
        progress=progress,
    )
    return Calibration(
        fitted=gathered.fitted,
        held=gathered.held,
        fit=fit,
        runs=runs,
        weights=tuple(weights_of(run, held, leaves, parts.slopes) for run in changed),
    )


@dataclass(frozen=True)
class _Named:
    """The function, all of whose outputs are the values that a calibration looks at, named."""

    open_call: Open
    gone: frozenset[str]
    chosen: frozenset[str]
    fit: Fit

    def __call__(self, params: Any, *batch: Any) -> list[jax.Array]:
        traced, parts, leaves, arrays = self.open_call(params, batch)
        execution = plan_execution(traced, parts)
        env = bind_arrays(traced, execution, parts, leaves, arrays)
        run(traced.analysis.program.body, replace(execution.rewrites, flat=True), env)
        values = {}
        for each in _runs(traced, set(self.gone), set(self.chosen)):
            if self.fit == "least_squares":
                values |= _ends(each, env)
                continue
            for site in each.sites:
                values |= {} if site.path in self.gone else _units(site, env)
        return [
            checkpoint_name(value, f"{_renamed(name)}:{value.ndim}")
            for name, value in values.items()
        ]


def _runs(traced: CallTrace, gone: set[str], chosen: set[str]) -> list[SiteChain]:
    """Returns the runs that the chosen sites make with those that are gone."""
    runs = changed_runs(traced.analysis, gone, chosen)
    for each in runs:
        if scans_around(each.first.product):
            raise CollapseError(
                f"{each.paths[0]}: stands inside a scan, from which values cannot be taken. Unroll "
                "it, with a tree of params for every layer, or collapse with fit='exact'."
            )
    return runs


def _renamed(name: str) -> str:
    mark, end, path = name.split(":", 2)
    return f"{mark}:{end}:{_FOLDER}{path}"


def _ends(each: SiteChain, env: Env) -> dict[str, jax.Array]:
    """Returns what flows into and out of a run, (tokens..., d), by name."""
    first, last, tokens = each.first, each.last, output_tokens(each)
    roles = [role and _by_input(role, tokens) for role in last.roles]
    x = read(env, first.x)
    free = [axis for axis in range(x.ndim) if axis not in first.x_axes]
    x = jnp.transpose(x, [*free, *first.x_axes])
    x = jnp.reshape(x, (*(x.shape[i] for i in range(len(free))), first.d_in))
    t = _arranged(read(env, last.out), tuple(roles), x.shape[:-1])
    return {into(each.paths[0]): x, out_of(each.paths[-1]): t}


def _by_input(role: tuple[str, int], tokens: dict[int, int | None]) -> AxisRole:
    """Returns a role of a run's output whose tokens are counted as those of its input."""
    if role[0] == "unit":
        return role
    number = tokens[role[1]]
    return None if number is None else ("token", number)


def _units(site: MatchedSite, env: Env) -> dict[str, jax.Array]:
    """Returns what a site's activation is given and what it returns, (tokens..., d), by name."""
    match = site.match
    x, (_, output_units) = match.up.x, joint_units(match)
    tokens = tuple(size for axis, size in enumerate(x.shape) if axis not in match.up.x_axes)
    given, returned = (
        select_units(_arranged(read(env, value), match.inner_roles, tokens), output_units)
        for value in (match.start, match.end)
    )
    return {into(site.path): given, out_of(site.path): returned}


def _arranged(array: jax.Array, roles: AxisRoles, tokens: Sequence[int]) -> jax.Array:
    """Returns an array as (tokens..., d), its axes in the order in which they are counted."""
    known = sorted((role, axis) for axis, role in enumerate(roles) if role)
    order = [axis for axis, role in enumerate(roles) if not role]
    order += [axis for _, axis in known]  # "token" sorts before "unit"
    return jnp.reshape(jnp.transpose(array, order), (*tokens, -1))
