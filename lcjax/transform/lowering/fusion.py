"""What runs in the place of a run of Dense layers once it is fused."""

from collections.abc import Mapping, Sequence

import jax
from jax import lax

from lcjax.transform.ir.program import Value
from lcjax.transform.ir.rewrites import Read, Replacement
from lcjax.transform.lowering.segments import Run, tokens_of


def fused(run: Run, factors: Sequence[Mapping[str, Value]]) -> Replacement:
    """Returns what computes the output of a run from its factors, held by these values."""
    first, last = run.first, run.last
    params, out = last.product.eqn.params, last.out
    kind = {name: params[name] for name in ("precision", "preferred_element_type")}

    def compute(read: Read) -> jax.Array:
        y = lax.convert_element_type(read(first.x), last.x.aval.dtype)
        axes, size = first.x_axes, [first.x.shape[axis] for axis in first.x_axes]
        for factor in factors:
            kernel = lax.convert_element_type(read(factor["kernel"]), last.kernel.aval.dtype)
            kernel = lax.reshape(kernel, (*size, kernel.shape[-1]))
            y = lax.dot_general(y, kernel, ((axes, tuple(range(len(size)))), ((), ())), **kind)
            if "bias" in factor:
                bias = lax.convert_element_type(read(factor["bias"]), y.dtype)
                y = lax.add(y, lax.broadcast_in_dim(bias, y.shape, (y.ndim - 1,)))
            if factor is not factors[-1]:
                y = lax.convert_element_type(y, last.x.aval.dtype)
            axes, size = (y.ndim - 1,), [y.shape[-1]]
        return lax.convert_element_type(_laid_out(y, run), out.aval.dtype)

    return Replacement(last.last, (first.x,), compute)


def _laid_out(y: jax.Array, run: Run) -> jax.Array:
    """Returns y (tokens in the order of the run's input, units last) as the program lays it out."""
    last, tokens = run.last, tokens_of(run)
    units = [last.kernel.shape[axis] for axis in last.kernel_out]
    y = lax.reshape(y, (*y.shape[:-1], *units))
    order = []
    for label in last.labels:
        if label and label[0] == "unit":
            order.append(y.ndim - len(units) + label[1])
        elif label and (token := tokens[label[1]]) is not None:
            order.append(token)
    gone = [axis for axis in range(y.ndim) if axis not in order]
    y = lax.transpose(y, [*gone, *order])
    return lax.reshape(y, last.out.shape) if y.shape != last.out.shape else y
