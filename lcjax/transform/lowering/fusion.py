"""The substitution that runs fused sites."""

from collections.abc import Mapping, Sequence

import jax
from jax import lax

from lcjax.transform.ir.program import Value
from lcjax.transform.ir.rewrites import Read, Substitution
from lcjax.transform.lowering.site_chains import SiteChain


def fused_substitution(chain: SiteChain, factors: Sequence[Mapping[str, Value]]) -> Substitution:
    """Returns the substitution that computes the output of a chain from its factors."""
    first, last = chain.first, chain.last
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
        return lax.convert_element_type(_laid_out(y, chain), out.aval.dtype)

    return Substitution(last.last, (first.x,), compute)


def _laid_out(y: jax.Array, chain: SiteChain) -> jax.Array:
    """Returns y (tokens in the order of the chain's input, units last) in the program's layout."""
    last, tokens = chain.last, chain.output_tokens
    units = [last.kernel.shape[axis] for axis in last.kernel_out]
    y = lax.reshape(y, (*y.shape[:-1], *units))
    order = []
    for role in last.roles:
        if role and role[0] == "unit":
            order.append(y.ndim - len(units) + role[1])
        elif role and (token := tokens[role[1]]) is not None:
            order.append(token)
    rest = [axis for axis in range(y.ndim) if axis not in order]
    y = lax.transpose(y, [*rest, *order])
    return lax.reshape(y, last.out.shape) if y.shape != last.out.shape else y
