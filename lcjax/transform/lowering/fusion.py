"""The substitution that runs the entries of `fused`: fused layers, and units that stay."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax

from lcjax.algebra.fuse import DenseParams
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.ir.program import Value
from lcjax.transform.ir.rewrites import Read, Substitution
from lcjax.transform.lowering.narrow_site import Activated, NarrowRun, activate
from lcjax.transform.lowering.site_chains import SiteChain, dense_input, input_tokens
from lcjax.transform.params.entries import FusedEntry, Run


@dataclass(frozen=True, eq=False, repr=False)
class FusedChain:
    """A chain of sites with what replaces it.

    Attributes:
      chain: the sites.
      entry: what replaces them, of arrays, or of values that hold them.
      narrow: the sites that keep units, as they run.
    """

    chain: SiteChain
    entry: FusedEntry
    narrow: tuple[NarrowRun, ...] = ()

    @property
    def reads(self) -> tuple[Value, ...]:
        """The values of the program that it is computed from."""
        return (self.chain.first.x, *(value for each in self.narrow for value in each.reads))


@dataclass(frozen=True)
class Stage:
    """A layer of a chain as it runs.

    Attributes:
      x: its input, (tokens..., d_in).
      y: its output, (tokens..., d_out), with a bypass that is added there.
      activated: the activation after it, where one of fewer units follows.
    """

    x: jax.Array
    y: jax.Array
    activated: Activated | None = None


def fused_substitution(fused: FusedChain) -> Substitution:
    """Returns the substitution that computes the output of a chain from its entry."""
    chain = fused.chain

    def compute(read: Read) -> jax.Array:
        y = run_stages(fused, read)[-1][-1].y if fused.entry.runs else _removed(fused, read)
        return lax.convert_element_type(_laid_out(y, chain), chain.last.out.aval.dtype)

    return Substitution(chain.last.last, fused.reads, compute)


def run_stages(fused: FusedChain, read: Read) -> list[list[Stage]]:
    """Returns every layer of a chain as it runs, by runs."""
    chain, entry = fused.chain, fused.entry
    ends = [*(each.site.match.up for each in fused.narrow), chain.last]
    y, stages = dense_input(chain.first, read(chain.first.x)), []
    shared = bool(chain.first.experts) and not chain.first.x_experts
    for r, (run, like) in enumerate(zip(entry.runs, ends, strict=True)):
        ran: list[Stage] = []
        for layer in run:
            x = y
            y = run_dense(x, layer, like, read, shared and not stages and not ran)
            if r and not ran:
                bypass = entry.narrow[r - 1].bypass
                y = y if bypass is None else _with_bypass(y, stages[-1][-1].x, bypass, like, read)
            ran.append(Stage(x, y))
        stages.append(ran)
        if r < len(fused.narrow):
            gate = entry.narrow[r].gate
            x = ran[-1 if len(gate) == 1 else 0].x  # of a gate in the kernel of the value
            found = activate(fused.narrow[r], entry.narrow[r].vectors, x, y, _run(gate, read), read)
            ran[-1] = replace(ran[-1], activated=found)
            y = found.h
    return stages


def _run(gate: Run, read: Read) -> Callable[[jax.Array, DenseOp], jax.Array]:
    """Returns the function that runs a gate's factors, given their input and their place."""

    def run(x: jax.Array, like: DenseOp) -> jax.Array:
        for layer in gate:
            x = run_dense(x, layer, like, read)
        return x

    return run


def run_dense(
    x: jax.Array, layer: DenseParams, like: DenseOp, read: Read, shared: bool = False
) -> jax.Array:
    """Returns the output of a Dense, with the dtypes and the precision of the program's.

    Args:
      x: input, (experts..., tokens..., d_in).
      layer: kernel (experts..., d_in, d_out) and perhaps bias (experts..., d_out).
      like: the layer of the program in whose place it is.
      read: returns the arrays.
      shared: whether all experts read the same input, (tokens..., d_in).
    """
    params = like.product.eqn.params
    kind = {name: params[name] for name in ("precision", "preferred_element_type")}
    kernel = lax.convert_element_type(read(layer["kernel"]), like.kernel.aval.dtype)
    x = lax.convert_element_type(x, like.x.aval.dtype)
    n = kernel.ndim - 2
    experts = tuple(range(n))
    batch = ((), ()) if shared else (experts, experts)
    y = lax.dot_general(x, kernel, (((x.ndim - 1,), (n,)), batch), **kind)
    if shared:
        y = jnp.moveaxis(y, range(x.ndim - 1, y.ndim - 1), experts)
    return _with_bias(y, layer, read)


def _with_bias(y: jax.Array, layer: DenseParams, read: Read) -> jax.Array:
    if "bias" not in layer:
        return y
    bias = lax.convert_element_type(read(layer["bias"]), y.dtype)
    axes = (*range(bias.ndim - 1), y.ndim - 1)
    return lax.add(y, lax.broadcast_in_dim(bias, y.shape, axes))


def _with_bypass(
    y: jax.Array, x: jax.Array, bypass: DenseParams, like: DenseOp, read: Read
) -> jax.Array:
    if "kernel" not in bypass:
        return _with_bias(y, bypass, read)
    return lax.add(y, run_dense(x, bypass, like, read))


def _removed(fused: FusedChain, read: Read) -> jax.Array:
    """Returns the output of a pair of layers that was removed: its bypass alone."""
    chain, (site,) = fused.chain, fused.entry.narrow
    bypass = site.bypass
    assert bypass is not None
    if "kernel" in bypass:
        return run_dense(dense_input(chain.first, read(chain.first.x)), bypass, chain.last, read)
    bias = read(bypass["bias"])
    tokens = input_tokens(chain)
    axes = (*range(bias.ndim - 1), len(tokens))
    return lax.broadcast_in_dim(bias, (*tokens, bias.shape[-1]), axes)


def _laid_out(y: jax.Array, chain: SiteChain) -> jax.Array:
    """Returns y in the program's layout.

    Args:
      y: (experts..., tokens in the order of the chain's input..., units).
      chain: the chain.
    """
    last, tokens = chain.last, chain.output_tokens
    units = [last.kernel.shape[axis] for axis in last.kernel_out]
    y = lax.reshape(y, (*y.shape[:-1], *units))
    order = []
    for role in last.roles:
        if role and role[0] == "unit":
            order.append(y.ndim - len(units) + role[1])
        elif role and role[0] == "expert":
            order.append(role[1])
        elif role and (token := tokens[role[1]]) is not None:
            order.append(len(last.experts) + token)
    rest = [axis for axis in range(y.ndim) if axis not in order]
    y = lax.transpose(y, [*rest, *order])
    return lax.reshape(y, last.out.shape) if y.shape != last.out.shape else y
