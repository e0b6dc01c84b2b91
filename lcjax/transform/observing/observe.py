"""The values that flow through the sites of a program while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.structure.front_end import Observed
from lcjax.structure.residual import ResidualTracker
from lcjax.structure.segment import Segment
from lcjax.transform.ir.interpreter import Env, read, run
from lcjax.transform.ir.program import Value, blocks_around
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.execution_plan import bind_arrays, fused_entries, plan_execution
from lcjax.transform.lowering.fusion import FusedChain, Stage, run_stages
from lcjax.transform.lowering.links import Link, LinkedChain, linked_chains
from lcjax.transform.lowering.site_chains import (
    SiteChain,
    chains_with,
    dense_input,
    input_tokens,
    tokens_first,
    with_tokens,
)
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.observing.ends import End, Weigh, activation_end, chain_output, inside
from lcjax.transform.observing.expert_values import by_expert


def check_observable(call: BoundCall, segments: Sequence[Segment]) -> None:
    """Raises CollapseError for segments inside a loop or a branch, or with dropout in them."""
    sites = {site.path: site for site in call.analysis.sites}
    for segment in segments:
        dropped = next((path for path in segment.sites if sites[path].has_dropout), None)
        if dropped is not None:
            raise CollapseError(
                f"{dropped}: got a call with dropout in the site, expected one as at inference, "
                "since a fit would learn the noise. Trace it with train=False, or the like."
            )
        path = segment.sites[0]
        around = blocks_around(sites[path].match.up.product)
        if around:
            name = around[-1].eqn.primitive.name
            advice = "Unroll it, with a tree of params for every layer, or collapse"
            raise CollapseError(
                f"{path}: is inside a {name}, from which values cannot be taken. "
                f"{advice if name == 'scan' else 'Collapse'} with lcjax.Exact()."
            )


def observed_values(
    call: BoundCall,
    compact: BoundCall,
    segments: Sequence[Segment],
    observed: Observed,
    weigh: Weigh | None = None,
) -> dict[str, list[tuple[jax.Array, ...]]]:
    """Returns what `Collapsible.observe` describes, by running the program once for each tree.

    Args:
      call: with the tree that outputs are taken from.
      compact: with the tree that inputs are taken from; the same call for the same tree.
      segments: of any choice of sites.
      observed: which values are taken.
      weigh: returns weights of tokens; None where they weigh alike.
    """
    deep = _Run(call)
    now = deep if compact is call else _Run(compact)
    if observed == "unit":
        paths = {path for segment in segments for path in segment.sites}
        sites = [site for site in call.analysis.sites if site.path in paths]
        weights = {}
        if weigh is not None:
            weights = weigh({site.path: activation_end(site) for site in sites})
        return {
            key: found
            for site in sites
            for key, found in by_expert(
                site.path,
                (now.activation(site)[0], deep.activation(site)[1], *_of(weights, site.path)),
                SiteChain((site,)),
                now.computed,
            ).items()
        }
    # Segments of different choices may be neighbours: each is found alone.
    places = {segment.key: now.place(segment, observed) for segment in segments}
    outputs = {key: deep.output(place) for key, place in places.items()}
    weights = {}
    if weigh is not None:
        weights = weigh({key: deep.output_end(place) for key, place in places.items()})
    if compact is not call:
        before, after = deep.residuals(places), now.residuals(places)
        both = before.keys() & after.keys()
        outputs |= {key: outputs[key] + (before[key] - after[key]) for key in both}
    return {
        key: found
        for name, place in places.items()
        for key, found in by_expert(
            name, (now.input(place), outputs[name], *_of(weights, name)), place.chain, now.computed
        ).items()
    }


def _of(weights: Mapping[str, jax.Array], key: str) -> list[jax.Array]:
    """Returns the weights of a key, if there are any."""
    return [weights[key]] if key in weights else []


@dataclass(frozen=True)
class _Place:
    """Where the values of a segment are.

    Attributes:
      chain: its sites, and linear ones next to them.
      hidden: the one site whose hidden units are observed too; None for the segment as a whole.
    """

    chain: SiteChain
    hidden: MatchedSite | None


class _Run:
    """A call that ran with its tree, with every value outside of scans."""

    def __init__(self, call: BoundCall):
        self.call = call
        execution = plan_execution(call)
        self._env: Env = bind_arrays(call, execution)
        run(call.program.body, replace(execution.rewrites, flat=True), self._env)
        self._stages: dict[str, list[list[Stage]]] = {}

    @cached_property
    def linked(self) -> dict[str, LinkedChain]:
        """The layers of the tree, by the paths of their sites."""
        return linked_chains(self.call)

    @cached_property
    def entries(self) -> dict[str, tuple[str, FusedChain]]:
        """The entry of every site that has one, with its key."""
        found = fused_entries(self.call)
        return {path: (name, each) for name, each in found.items() for path in each.chain.paths}

    def computed(self, value: Value) -> jax.Array | None:
        """Returns the array of a value; None where it was not computed."""
        return self._env.get(value)

    def place(self, segment: Segment, observed: Observed) -> _Place:
        """Returns where the values of a segment are in the tree."""
        (chain,) = chains_with(self.call, segment.sites)
        if observed != "hidden":
            return _Place(chain, None)
        (path,) = segment.sites
        return _Place(chain, next(site for site in chain.sites if site.path == path))

    def input(self, place: _Place) -> jax.Array:
        """Returns the input of a segment, (tokens..., d_in), with its hidden units."""
        linked = self.linked[place.chain.paths[0]]
        if place.hidden is None:
            return self._link_input(linked, linked.place_of(place.chain.first), 0)
        i = linked.index(place.hidden.path)
        x = self._link_input(linked, i, -1)
        h = self._hidden(linked, i, place.chain)
        dtype = jnp.promote_types(x.dtype, h.dtype)
        return jnp.concatenate([x.astype(dtype), h.astype(dtype)], axis=-1)

    def output(self, place: _Place) -> jax.Array:
        """Returns the output of a segment, (tokens..., d_out)."""
        stage, end = self._last_stage(place), self.output_end(place)
        return end.arrange(read(self._env, end.value)) if stage is None else stage.y

    def output_end(self, place: _Place) -> End:
        """Returns where the output of a segment is in the program."""
        return End(place.chain.last.out, partial(chain_output, place.chain))

    def _last_stage(self, place: _Place) -> Stage | None:
        """Returns the factor whose result is the output of a segment; None for the program's."""
        linked = self.linked[place.chain.paths[0]]
        last = linked.place_of(place.chain.last)
        stages = self._stages_of(linked, last)
        if place.hidden is not None and stages is not None:
            i = linked.place_of(place.hidden.match.down)
            ran = self._stages_of(linked, i)
            if ran is not None and len(ran) > 1:
                return ran[0]
        if stages is not None and last < len(linked.sites):
            if linked.sites[last].path in linked.narrow:
                return stages[-1]
        return None

    def residuals(self, places: dict[str, _Place]) -> dict[str, jax.Array]:
        """Returns what is added to the outputs of segments, by their keys, (tokens..., d_out).

        Those whose output is not added to anything are left out.
        """
        tracker, found, env = ResidualTracker(), {}, self._env
        chains = {key: place.chain for key, place in places.items()}
        for key, chain in chains.items():
            if chain.last.out in env:
                tracker.start(key, read(env, chain.last.out))
        for op in self.call.program.ops():
            if all(value in env or value.constant is not None for value in [*op.ins, *op.outs]):
                operands = [read(env, value) for value in op.ins]
                added = tracker.added(op.eqn, operands)
                if added is not None:
                    key = str(added[0])
                    found[key] = chain_output(chains[key], added[1])
                tracker.follow(op.eqn, operands, [read(env, value) for value in op.outs])
        return found

    def activation(self, site: MatchedSite) -> tuple[jax.Array, jax.Array]:
        """Returns input and output of an activation, (tokens..., units of the Dense after)."""
        linked = self.linked[site.path]
        if site.path in linked.narrow:
            stages = self._stages_of(linked, linked.index(site.path))
            activated = None if stages is None else stages[-1].activated
            assert activated is not None
            return activated.z, activated.a
        start, end = (read(self._env, value) for value in (site.match.start, site.match.end))
        return inside(site, start), inside(site, end)

    def _link_input(self, linked: LinkedChain, place: int, factor: int) -> jax.Array:
        """Returns the input of a link's factor, after that of a bypass that is added to it."""
        stages = self._stages_of(linked, place)
        if stages is None:
            dense = linked.links[place].denses[0]
            return dense_input(dense, read(self._env, dense.x))
        x, bypass = stages[factor].x, linked.bypass_into(place)
        earlier = self._stages_of(linked, place - 1) if bypass and "kernel" in bypass else None
        if earlier is None or stages[factor] is not stages[0]:
            return x
        return jnp.concatenate([earlier[-1].x.astype(x.dtype), x], axis=-1)

    def _hidden(self, linked: LinkedChain, place: int, chain: SiteChain) -> jax.Array:
        """Returns the hidden units of a site, (tokens..., units) as the layer after reads them."""
        site = linked.sites[place]
        after = self._stages_of(linked, place + 1)
        if site.path in linked.narrow and after is not None:
            return after[0].x
        down = site.match.down
        numbers = {axis: ("unit", i) for i, axis in enumerate(down.x_axes)}
        roles = tuple(numbers.get(axis, role) for axis, role in enumerate(site.match.roles))
        if position := chain.sites.index(site):
            roles = with_tokens(roles, SiteChain(chain.sites[:position]).output_tokens)
        return tokens_first(read(self._env, down.x), roles, input_tokens(chain))

    def _stages_of(self, linked: LinkedChain, place: int) -> list[Stage] | None:
        """Returns the factors of a link as they ran; None for a Dense of the program."""
        link = linked.links[place]
        if link.run is None:
            return None
        name, fused = self.entries[_site_in(linked, link, place)]
        if name not in self._stages:
            moved = any(a not in (b, None) for b, a in fused.chain.output_tokens.items())
            if moved and fused.narrow:
                raise CollapseError(
                    f"{', '.join(fused.chain.paths)}: the token axes change their order from site "
                    "to site, so that the values at units that stay cannot be taken. Collapse "
                    "these sites with lcjax.Exact()."
                )
            self._stages[name] = run_stages(fused, self._read)
        return self._stages[name][place - linked.place_of(fused.chain.first)]

    def _read(self, value: Any) -> Any:
        return read(self._env, value) if isinstance(value, Value) else value


def _site_in(linked: LinkedChain, link: Link, place: int) -> str:
    """Returns the path of a site in the entry that a link of the tree is in."""
    if link.linear:
        return link.linear[0].path
    around = linked.sites[max(place - 1, 0) : place + 1]
    return next(site.path for site in around if site.path in linked.narrow)
