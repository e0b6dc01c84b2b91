"""The values that flow through the sites of a program while it runs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.structure.front_end import Observed
from lcjax.structure.residual import ResidualTracker
from lcjax.transform.analysis.axes import AxisRole, AxisRoles
from lcjax.transform.ir.interpreter import Env, read, run
from lcjax.transform.ir.program import Program, scans_around
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.execution_plan import bind_arrays, plan_execution
from lcjax.transform.lowering.joints import joint_units, select_units
from lcjax.transform.lowering.site_chains import SiteChain, chains_with
from lcjax.transform.matching.find_sites import MatchedSite

# The sites of every segment. Segments of different choices may be neighbours: each is found alone.
Groups = Sequence[Collection[str]]


def check_observable(call: BoundCall, groups: Groups) -> None:
    """Raises CollapseError for segments inside a scan."""
    for chain in _chains(call, groups):
        if scans_around(chain.first.product):
            raise CollapseError(
                f"{chain.paths[0]}: is inside a scan, from which values cannot be taken. Unroll "
                "it, with a tree of params for every layer, or collapse with lcjax.Exact()."
            )


def observed_values(
    call: BoundCall, compact: BoundCall, groups: Groups, observed: Observed
) -> dict[str, list[tuple[jax.Array, jax.Array]]]:
    """Returns what `Collapsible.observe` describes, by running the program once for each tree.

    Args:
      call: with the tree that outputs are taken from.
      compact: with the tree that inputs are taken from; the same call for the same tree.
      groups: the sites of every segment.
      observed: which values are taken.
    """
    env = _run_open(call)
    input_env = env if compact is call else _run_open(compact)
    if observed == "unit":
        paths = {path for group in groups for path in group}
        sites = [site for site in call.analysis.sites if site.path in paths]
        before = {site.path: _activation_values(site, input_env)[0] for site in sites}
        after = {site.path: _activation_values(site, env)[1] for site in sites}
        return {path: [(before[path], after[path])] for path in before}
    chains = {chain.paths[-1]: chain for chain in _chains(call, groups)}
    inputs = {key: _chain_input(chain, input_env) for key, chain in chains.items()}
    outputs = {
        key: _chain_output(chain, read(env, chain.last.out)) for key, chain in chains.items()
    }
    if compact is not call:
        deep, now = (_residuals(call.program, chains, each) for each in (env, input_env))
        both = deep.keys() & now.keys()
        outputs |= {key: outputs[key] + (deep[key] - now[key]) for key in both}
    return {key: [(inputs[key], outputs[key])] for key in chains}


def _chains(call: BoundCall, groups: Groups) -> list[SiteChain]:
    return [chain for group in groups for chain in chains_with(call, group)]


def _run_open(call: BoundCall) -> Env:
    """Runs a call with its tree and returns every value outside of scans."""
    execution = plan_execution(call)
    env = bind_arrays(call, execution)
    run(call.program.body, replace(execution.rewrites, flat=True), env)
    return env


def _activation_values(site: MatchedSite, env: Env) -> tuple[jax.Array, jax.Array]:
    """Returns input and output of a site's activation, (tokens..., units of the Dense after)."""
    match = site.match
    x, (_, units) = match.up.x, joint_units(match)
    tokens = tuple(size for axis, size in enumerate(x.shape) if axis not in match.up.x_axes)
    before, after = (
        select_units(_tokens_first(read(env, value), match.inner_roles, tokens), units)
        for value in (match.start, match.end)
    )
    return before, after


def _chain_input(chain: SiteChain, env: Env) -> jax.Array:
    """Returns the input of a chain, (tokens..., d_in)."""
    first, x = chain.first, read(env, chain.first.x)
    free = [axis for axis in range(x.ndim) if axis not in first.x_axes]
    x = jnp.transpose(x, [*free, *first.x_axes])
    return jnp.reshape(x, (*x.shape[: len(free)], first.d_in))


def _chain_output(chain: SiteChain, value: jax.Array) -> jax.Array:
    """Returns a value in the layout of a chain's output as (tokens..., d_out)."""
    first, last, tokens = chain.first, chain.last, chain.output_tokens
    roles = tuple(role and _by_input(role, tokens) for role in last.roles)
    shape = first.x.shape
    sizes = [shape[axis] for axis in range(len(shape)) if axis not in first.x_axes]
    return _tokens_first(value, roles, sizes)


def _residuals(program: Program, chains: Mapping[str, SiteChain], env: Env) -> dict[str, jax.Array]:
    """Returns what is added to the outputs of chains, by their keys, (tokens..., d_out).

    Chains whose output is not added to anything are left out.
    """
    tracker = ResidualTracker()
    for key, chain in chains.items():
        tracker.start(key, read(env, chain.last.out))
    found: dict[str, jax.Array] = {}
    for op in program.ops():
        if all(value in env or value.constant is not None for value in [*op.ins, *op.outs]):
            operands = [read(env, value) for value in op.ins]
            added = tracker.added(op.eqn, operands)
            if added is not None:
                key = str(added[0])
                found[key] = _chain_output(chains[key], added[1])
            tracker.follow(op.eqn, operands, [read(env, value) for value in op.outs])
    return found


def _by_input(role: tuple[str, int], tokens: dict[int, int | None]) -> AxisRole:
    """Returns a role in a chain's output whose tokens are counted as those of its input."""
    if role[0] == "unit":
        return role
    number = tokens[role[1]]
    return None if number is None else ("token", number)


def _tokens_first(array: jax.Array, roles: AxisRoles, tokens: Sequence[int]) -> jax.Array:
    """Returns an array as (tokens..., d), its axes in the order in which they are counted."""
    known = sorted((role, axis) for axis, role in enumerate(roles) if role)
    order = [axis for axis, role in enumerate(roles) if not role]
    order += [axis for _, axis in known]  # "token" sorts before "unit"
    return jnp.reshape(jnp.transpose(array, order), (*tokens, -1))
