"""The values of a params tree's segments: what a fit is made from."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lcjax.structure.capture import ValueName, capture, capture_gradients
from lcjax.structure.chains.chain import bypass_of
from lcjax.structure.front_end import Observe, Observed, Pairs, Pull
from lcjax.structure.segment import Segment
from lcjax.structure.sites import params_of
from lcjax.validation.functions import explained


class _Ends(NamedTuple):
    """Where a segment's values are.

    Attributes:
      inputs: paths of the modules whose inputs are x, one after another.
      last: path of the module whose output is t.
      bypass: path of the bypass that would be added to it; None where there can be none.
    """

    inputs: tuple[str, ...]
    last: str
    bypass: str | None

    def output(self, variables: Any) -> str:
        """Returns the path of the module whose output is that of the segment in a tree."""
        node = params_of(variables)
        for name in self.bypass.split("/") if self.bypass else ():
            node = node.get(name, {})
        return self.bypass if self.bypass and node else self.last


def observe_modules(
    apply_fn: Callable[..., Any],
    segments: Sequence[Segment],
    observed: Observed,
    pull: Pull | None = None,
) -> Observe:
    """Returns a function that runs apply_fn and returns inputs and outputs; see `Collapsible`."""
    if observed == "unit":
        ends = {site: _Ends((site,), site, None) for each in segments for site in each.sites}
    else:
        ends = {segment.key: _ends(segment, observed) for segment in segments}
    inputs = {ValueName("input", path) for each in ends.values() for path in each.inputs}

    def outputs(variables: Any) -> set[ValueName]:
        return {ValueName("output", each.output(variables)) for each in ends.values()}

    def residuals(variables: Any) -> set[ValueName]:
        if observed == "unit":
            return set()
        return {ValueName("residual", each.output(variables)) for each in ends.values()}

    def observe(variables: Any, compact: Any, batch: tuple[Any, ...]) -> Pairs:
        with explained(apply_fn, variables, batch):
            if compact is None:
                deep = now = capture(apply_fn, variables, batch, inputs | outputs(variables))
            else:
                names = outputs(variables) | residuals(variables)
                deep = capture(apply_fn, variables, batch, names)
                now = capture(apply_fn, compact, batch, inputs | residuals(compact))
            gradients = {}
            if pull is not None:
                own = partial(pull, batch=batch)
                gradients = capture_gradients(apply_fn, variables, batch, outputs(variables), own)
        pairs = {}
        for key, each in ends.items():
            last = each.output(variables)
            ts, added = deep[ValueName("output", last)], deep.get(ValueName("residual", last), ())
            if compact is not None and len(added) == len(ts):
                compact_added = now[ValueName("residual", each.output(compact))]
                joined = zip(ts, added, compact_added, strict=True)
                ts = [t + (r - compact_r) for t, r, compact_r in joined]
            calls = zip(*(now[ValueName("input", path)] for path in each.inputs), strict=True)
            gs = () if pull is None else (map(squared_norm, gradients[ValueName("output", last)]),)
            pairs[key] = list(zip(map(_side_by_side, calls), ts, *gs, strict=True))
        return pairs

    return observe


def _ends(segment: Segment, observed: Observed) -> _Ends:
    entry = segment.entry
    inputs = [entry.name] if entry is not None and entry.width else []
    inputs += [segment.names[0]] + [segment.names[-1]] * (observed == "hidden")
    site = segment.joints[-1].site
    return _Ends(tuple(inputs), segment.names[-1], None if site is None else bypass_of(site))


def squared_norm(gradient: jax.Array) -> jax.Array:
    """Returns the squared norm of each token's gradient, float32; (tokens...)."""
    return jnp.sum(jnp.square(gradient.astype(jnp.float32)), axis=-1)


def _side_by_side(values: Sequence[jax.Array]) -> jax.Array:
    """Returns values of a token as one vector, wide enough for moments of all of them."""
    if len(values) == 1:
        return values[0]
    kinds = {value.dtype for value in values}
    dtype = jnp.float64 if jnp.dtype("float64") in kinds else jnp.float32
    if any(jnp.issubdtype(kind, jnp.complexfloating) for kind in kinds):
        dtype = jnp.complex64  # refused where moments are taken
    return jnp.concatenate([value.astype(dtype) for value in values], -1)
