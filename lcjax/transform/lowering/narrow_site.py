"""A site whose activation runs on some of its units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lcjax.errors import CollapseError
from lcjax.nn.activations import interpolate
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.ir.program import Value
from lcjax.transform.ir.resized import UnsizedError, run_resized, scalar_of
from lcjax.transform.ir.rewrites import Read
from lcjax.transform.lowering.site_chains import (
    SiteChain,
    dense_input,
    tokens_first,
    with_tokens,
)
from lcjax.transform.matching.find_sites import MatchedSite
from lcjax.transform.matching.unit_path import Node, Outside, Step, UnitPath


@dataclass(frozen=True, eq=False, repr=False)
class NarrowRun:
    """A site that keeps units, in a chain.

    Attributes:
      site: the site.
      path: its operations.
      tokens: for each of its token axes which of the chain's input it is; None for one of size 1.
      slope: its α, or the value that holds it; None for 0.
    """

    site: MatchedSite
    path: UnitPath
    tokens: Mapping[int, int | None]
    slope: Any = None

    @property
    def reads(self) -> list[Value]:
        """The values of the program that it is computed from."""
        gate = self._gate
        return self.path.reads + ([] if gate is None else [gate.x])

    @property
    def _gate(self) -> DenseOp | None:
        """The gate's Dense, unless it is a part of the one before."""
        gate = None if self.path.gate is None else self.path.sources[self.path.gate].dense
        return None if gate is self.site.match.up else gate


class Activated(NamedTuple):
    """Values of some units of a site, each (tokens..., k).

    Attributes:
      z: input of the activation; of a gated unit the value.
      a: its output.
      h: what the Dense after reads.
    """

    z: jax.Array
    a: jax.Array
    h: jax.Array


def narrow_run(chain: SiteChain, position: int, path: UnitPath, slope: Any = None) -> NarrowRun:
    """Returns a site of a chain, with the operations that run on its units."""
    before = SiteChain(chain.sites[:position])
    tokens = before.output_tokens if position else _identity(chain.first)
    return NarrowRun(chain.sites[position], path, tokens, slope)


def _identity(first: DenseOp) -> dict[int, int | None]:
    return {i: i for i in range(len(first.x_tokens))}


def activate(
    run: NarrowRun,
    vectors: Sequence[Any],
    x: jax.Array,
    y: jax.Array,
    gate_of: Callable[[jax.Array, DenseOp], jax.Array],
    read: Read,
) -> Activated:
    """Returns the values of a site's activation from the output of the Dense before.

    Args:
      run: the site.
      vectors: the values of `run.path.vectors`, cut by the units, (k,).
      x: what a gate in the kernel of the Dense before reads, (tokens..., d_in).
      y: output of the Dense before, (tokens..., k).
      gate_of: runs the gate's layers on their input.
      read: returns the arrays of values.

    Raises:
      CollapseError: an operation that cannot run on some units; names the site and it.
    """
    path, match = run.path, run.site.match
    env = {path.value: lax.convert_element_type(y, path.value.value.aval.dtype)}
    if path.gate is not None:
        source = path.sources[path.gate]
        separate = source.dense is not match.up
        gate = gate_of(
            dense_input(source.dense, read(source.dense.x)) if separate else x, source.dense
        )
        roles = (*(None if t is None else ("token", t) for t in source.tokens), ("unit", 0))
        gate = tokens_first(gate, with_tokens(roles, run.tokens), y.shape[:-1])
        env[path.gate] = lax.convert_element_type(gate, path.gate.value.aval.dtype)
    outside = _outside(run, vectors, y.shape, read)
    for step in path.steps:
        operands = [env[each] if isinstance(each, Node) else outside(each) for each in step.ins]
        env[step.out] = _apply(step, operands, run.site)
        if step.out.value is match.end and run.slope is not None:
            z = env[Node(match.start, step.out.start)]
            env[step.out] = _mixed(run, z, env[step.out], outside, read)
    ends = [next(node for node in env if node.value is value) for value in (match.start, match.end)]
    z, a, h = (jnp.broadcast_to(env[node], y.shape) for node in (*ends, path.end))
    return Activated(z, a, h)


def _mixed(
    run: NarrowRun,
    z: jax.Array,
    h: jax.Array,
    outside: Callable[[Outside], jax.Array],
    read: Read,
) -> jax.Array:
    """Returns `α z + (1 − α) h`, with what scales a gate applied to z too."""
    on_gate = {affine.op: affine.value for affine in run.site.match.on_gate}
    for step in run.path.steps:
        if step.op in on_gate:
            z = lax.convert_element_type(z, on_gate[step.op].aval.dtype)
            ins = [z if isinstance(each, Node) else outside(each) for each in step.ins]
            z = _apply(step, ins, run.site)
    z = lax.convert_element_type(z, h.dtype)
    return interpolate(lambda z, h: h, z, read(run.slope), h)


def _outside(
    run: NarrowRun, vectors: Sequence[Any], shape: Sequence[int], read: Read
) -> Callable[[Outside], jax.Array]:
    """Returns the function that returns an operand from outside for these units."""
    own = {id(each): vector for each, vector in zip(run.path.vectors, vectors, strict=True)}

    def outside(each: Outside) -> jax.Array:
        dtype = each.value.aval.dtype
        if each.kind == "vector":
            array = lax.convert_element_type(read(own[id(each)]), dtype)
            return lax.stop_gradient(array) if each.constant else array
        array = read(each.value)
        if each.kind == "scalar":
            return scalar_of(array)
        if not each.roles:
            return jnp.asarray(array)
        roles = with_tokens(each.roles, run.tokens)
        return tokens_first(array, roles, tuple(shape[:-1]))[..., : shape[-1]]

    return outside


def _apply(step: Step, operands: Sequence[jax.Array], site: MatchedSite) -> jax.Array:
    if step.op.name in ("slice", "split"):
        return operands[0]
    try:
        (result,) = run_resized(step.op.eqn, operands)
    except UnsizedError as error:
        raise CollapseError(
            f"{site.path}: `{error}` in its activation does not run on some units alone. Collapse "
            "the site with another fit."
        ) from error
    return result
