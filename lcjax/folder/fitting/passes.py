"""What a layer computes on one batch, deep and compact; compiled once for all layers."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.algebra.moments import Moments, measure, merge
from lcjax.folder.families import Family

# Of which values of an MLP moments are taken: its input, its hidden units, or both in this order.
Read = Literal["input", "hidden", "both"]


class DeepOutputs(NamedTuple):
    """What a deep layer gives on a batch.

    Attributes:
      states: its output.
      target: what the compact MLP's output and the residual that it is added to should sum to.
      units: unitwise moments of the hidden units; None where they were not asked for.
      moments: of the MLP's input and output, to fit on and held out; None likewise.
    """

    states: jax.Array
    target: jax.Array
    units: Moments | None = None
    moments: tuple[Moments, Moments] | None = None


class Sums(NamedTuple):
    """Sums over the tokens of a batch, of a layer's errors.

    Attributes:
      count: number of tokens.
      missed: squared difference of the MLP's output from the output that was aimed at.
      square: squared norm of the output that was aimed at.
      total: its sum, (width,).
      apart: squared difference of the layer's output from the deep model's.
      size: squared norm of the deep model's.
    """

    count: Any
    missed: Any
    square: Any
    total: Any
    apart: Any
    size: Any


class LayerPasses:
    """The passes over a batch through a layer of a family."""

    def __init__(self, family: Family):
        """Compiles nothing yet."""
        self._family = family
        self.deep = jax.jit(self._deep, static_argnames=("block", "units", "read"))
        self.moments = jax.jit(
            self._moments, static_argnames=("block", "read"), donate_argnames="total"
        )
        self.compact = jax.jit(self._compact, static_argnames="block")
        self.output = jax.jit(self._output, static_argnames="block")

    def _deep(
        self,
        block: nn.Module,
        params: Any,
        x: jax.Array,
        args: Any,
        counts: Any,
        keep: Any = None,
        *,
        units: bool = False,
        read: Read | None = None,
    ) -> DeepOutputs:
        """Returns what a deep layer gives.

        Args:
          block: of the layer.
          params: of the layer.
          x: hidden states of the deep model.
          args: what else the block takes.
          counts: masks of the tokens to fit on, and of those held out.
          keep: indices of the hidden units that are read; None for all.
          units: whether to take moments of each hidden unit.
          read: of which values to take moments with the MLP's output; None for none.
        """
        out, inside, result = self._run(block, params, x, args)
        target = {"sum": out, "input": inside + result, "normed": result}[self._family.residual]
        hidden: Any = None
        if units or read is not None:
            hidden = self._family.hidden_units(params["mlp"], inside)
        strengths = measure(hidden, hidden, counts[0], unitwise=True) if units else None
        found = None
        if read is not None:
            chosen = hidden if keep is None or hidden is None else hidden[..., keep]
            values = self._values(read, inside, chosen)
            found = (measure(values, result, counts[0]), measure(values, result, counts[1]))
        return DeepOutputs(out, target, strengths, found)

    def _moments(
        self,
        block: nn.Module,
        params: Any,
        x: jax.Array,
        args: Any,
        target: jax.Array,
        count: jax.Array,
        total: Moments | None,
        *,
        read: Read,
    ) -> Moments:
        """Returns `total` and the moments of a batch: of values of the compact model's layer.

        Args:
          block: of the layer.
          params: of the layer; of the MLP only the first layers of the units that are read.
          x: hidden states of the compact model.
          args: what else the block takes.
          target: as of `DeepOutputs`.
          count: mask of the tokens to fit on.
          total: of the batches before.
          read: of which values.
        """
        out, inside, _ = self._run(block, params, x, args, lambda call, y: jnp.zeros_like(y))
        before = {"sum": out, "input": inside, "normed": jnp.zeros_like(inside)}
        aim = target - before[self._family.residual]
        hidden = None if read == "input" else self._family.hidden_units(params["mlp"], inside)
        found = measure(self._values(read, inside, hidden), aim, count)
        return found if total is None else merge(total, found)

    def _compact(
        self,
        block: nn.Module,
        params: Any,
        x: jax.Array,
        args: Any,
        target: jax.Array,
        deep: jax.Array,
        counts: Any,
    ) -> tuple[jax.Array, tuple[Sums, ...]]:
        """Returns the compact layer's output, and sums of errors over tokens fitted and held out.

        Args:
          block: of the layer.
          params: of the layer, its MLP in its new form.
          x: hidden states of the compact model.
          args: what else the block takes.
          target: as of `DeepOutputs`.
          deep: the deep layer's output.
          counts: the two masks.
        """
        out, inside, result = self._run(block, params, x, args)
        before = {"sum": out - result, "input": inside, "normed": jnp.zeros_like(inside)}
        aim = target - before[self._family.residual]

        def sums(mask: jax.Array) -> Sums:
            def total(values: jax.Array) -> jax.Array:
                return jnp.sum(jnp.where(mask[..., None], values, 0), axis=(0, 1))

            squares = [(aim - result) ** 2, aim**2, (out - deep) ** 2, deep**2]
            missed, square, apart, size = (jnp.sum(total(each)) for each in squares)
            return Sums(jnp.sum(mask), missed, square, total(aim), apart, size)

        return out, tuple(sums(mask) for mask in counts)

    def _output(self, block: nn.Module, params: Any, x: jax.Array, args: Any) -> jax.Array:
        """Returns the output of a layer from its params and its input."""
        return self._run(block, params, x, args)[0]

    def _values(self, read: Read, x: jax.Array, hidden: Any) -> jax.Array:
        if read == "both":
            return jnp.concatenate([x, hidden], axis=-1)
        return x if read == "input" else hidden

    def _run(
        self,
        block: nn.Module,
        params: Any,
        x: jax.Array,
        args: Any,
        mlp: Callable[[Callable[[], jax.Array], jax.Array], jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the outputs of a layer, and input and output of its MLP.

        Args:
          block: the layer.
          params: of the layer.
          x: its input.
          args: what else the block takes.
          mlp: runs in the place of the MLP, on a call of it and its input; None runs it.
        """
        seen: list[tuple[jax.Array, jax.Array]] = []

        def intercept(call: Any, inputs: Any, options: Any, context: Any) -> Any:
            module = context.module
            if module.name != "mlp" or context.method_name != "__call__":
                return call(*inputs, **options)
            whole = partial(call, *inputs, **options)
            result = whole() if mlp is None else mlp(whole, inputs[0])
            seen.append((inputs[0], result))
            return result

        with nn.intercept_methods(intercept):
            out: Any = block.apply({"params": params}, x, *args)
        ((inside, result),) = seen
        return out, inside, result
