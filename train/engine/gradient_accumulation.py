"""The gradient of a batch that is gone through in parts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from train.runtime.sharding import over_batch

# gradient(params, stats, batch, key) -> ((loss, (new stats, metrics)), gradient)
Gradient = Callable[[Any, Any, Any, jax.Array], Any]


class Beside(NamedTuple):
    """A batch that comes with what is not one of its examples, such as a teacher's variables."""

    examples: Any
    held: Any


def accumulated(gradient: Gradient, parts: int) -> Gradient:
    """Returns a function like `gradient` that takes a batch in parts, one after another.

    Losses, metrics and gradients are means over the parts, so where a loss is a mean over examples
    they are the whole batch's, up to rounding. Statistics are updated part by part, and each part
    has a random key of its own.

    Args:
      gradient: of a whole batch.
      parts: how many; 1 gives `gradient` itself.
    """
    if parts == 1:
        return gradient

    def in_parts(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        def cut(leaf: jax.Array) -> jax.Array:
            # Every part takes every parts-th example, so that on a mesh no example moves.
            return over_batch(leaf).reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)

        def add(carry: Any, inputs: Any) -> tuple[Any, None]:
            stats, total = carry
            part, number = inputs
            part = part if held is None else Beside(part, held)
            (loss, (stats, metrics)), grads = gradient(
                params, stats, part, jax.random.fold_in(key, number)
            )
            found = (loss, metrics, grads)
            return (stats, jax.tree.map(lambda a, b: a + b / parts, total, found)), None

        batch, held = batch if isinstance(batch, Beside) else (batch, None)
        examples = jax.tree.map(cut, batch)
        first = jax.tree.map(lambda leaf: leaf[0], examples)
        first = first if held is None else Beside(first, held)
        (loss, (_, metrics)), grads = jax.eval_shape(gradient, params, stats, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, metrics, grads))
        (stats, total), _ = jax.lax.scan(add, (stats, zeros), (examples, jnp.arange(parts)))
        loss, metrics, grads = total
        return (loss, (stats, metrics)), grads

    return in_parts
