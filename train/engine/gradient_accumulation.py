"""Gradient accumulation over microbatches within one step.

`optax.MultiSteps` accumulates over steps; here a batch is split on the device, so that no example
moves between devices and the teacher's variables are passed once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from train.runtime.sharding import shard_batch

# gradient(params, stats, batch, key) -> ((loss, (new stats, metrics)), gradient)
Gradient = Callable[[Any, Any, Any, jax.Array], Any]


class WithAuxiliary(NamedTuple):
    """A batch, and data without a batch axis such as a teacher's variables."""

    examples: Any
    auxiliary: Any


def accumulate_gradient(gradient: Gradient, parts: int) -> Gradient:
    """Returns a function like `gradient` that processes a batch in microbatches.

    Losses, metrics and gradients are means over the microbatches: those of the whole batch, up to
    rounding, if the loss is a mean over examples. Statistics are updated after every microbatch.
    Each microbatch has its own random key.

    Args:
      gradient: of a whole batch.
      parts: number of microbatches; for 1, `gradient` is returned.
    """
    if parts == 1:
        return gradient

    def in_parts(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        def split(leaf: jax.Array) -> jax.Array:
            # A microbatch has every parts-th example, so that on a mesh no example moves.
            return shard_batch(leaf).reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)

        def add(carry: Any, inputs: Any) -> tuple[Any, None]:
            stats, total = carry
            part, number = inputs
            part = part if auxiliary is None else WithAuxiliary(part, auxiliary)
            (loss, (stats, metrics)), grads = gradient(
                params, stats, part, jax.random.fold_in(key, number)
            )
            found = (loss, metrics, grads)
            return (stats, jax.tree.map(lambda a, b: a + b / parts, total, found)), None

        batch, auxiliary = batch if isinstance(batch, WithAuxiliary) else (batch, None)
        examples = jax.tree.map(split, batch)
        first = jax.tree.map(lambda leaf: leaf[0], examples)
        first = first if auxiliary is None else WithAuxiliary(first, auxiliary)
        (loss, (_, metrics)), grads = jax.eval_shape(gradient, params, stats, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, metrics, grads))
        (stats, total), _ = jax.lax.scan(add, (stats, zeros), (examples, jnp.arange(parts)))
        loss, metrics, grads = total
        return (loss, (stats, metrics)), grads

    return in_parts
