"""Gathers that are slices: `x[..., :n]` where a size of x is a symbol.

JAX traces indexing by fixed numbers to a slice if all sizes are numbers, and to a gather otherwise.
"""

from typing import Any

import jax
import numpy as np
from jax import lax

from lcjax._jaxpr import bind
from lcjax.transform.ir.primitives import PASSTHROUGH, RESHAPES
from lcjax.transform.ir.program import Op, Value

_INDEX_OPS = PASSTHROUGH | RESHAPES | {"concatenate"}  # of those that JAX makes of fixed numbers


def as_slice(eqn: Any, operand: Value, indices: Value) -> Any:
    """Returns a jaxpr of the operand, of slice and squeeze, that equals a gather; else None.

    Args:
      eqn: the gather.
      operand: of which elements are gathered.
      indices: the places at which to start.
    """
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    dropped = numbers.collapsed_slice_dims
    rank = len(operand.shape) - len(dropped)
    one = len(indices.shape) == 1 and not numbers.operand_batching_dims
    if not one or numbers.offset_dims != tuple(range(rank)):
        return None
    with jax.ensure_compile_time_eval():
        places = _constant(indices)
    if places is None:
        return None
    start = np.zeros(len(operand.shape), int)
    start[list(numbers.start_index_map)] = places
    for axis in numbers.start_index_map:
        size = operand.shape[axis]
        if not isinstance(size, int) or not 0 <= start[axis] <= size - sizes[axis]:
            return None  # the gather moves, fills or forbids what is outside
    first = tuple(map(int, start))
    last = tuple(a + b for a, b in zip(first, sizes, strict=True))
    like: Any = operand.aval
    shape = jax.ShapeDtypeStruct(like.shape, like.dtype)
    return jax.make_jaxpr(lambda x: lax.squeeze(lax.slice(x, first, last), dropped))(shape).jaxpr


def _constant(value: Value) -> Any:
    """Returns the array of a value that is made of constants by moving them; else None."""
    if value.constant is not None:
        return value.constant
    op = value.maker
    if not isinstance(op, Op) or op.name not in _INDEX_OPS or not op.ins:
        return None
    operands = [_constant(each) for each in op.ins]
    return None if any(each is None for each in operands) else bind(op.eqn, operands)[0]
