"""Properties of JAX's primitives: which are elementwise, which only move elements."""

from typing import Any

import jax.numpy as jnp

from lcjax._jaxpr import inner_jaxprs
from lcjax.transform.ir.program import Op

# Return their operand unchanged, except for dtype, device and name.
PASSTHROUGH = frozenset(
    "convert_element_type copy copy_p name sharding_constraint reshard mesh_cast stop_gradient"
    " optimization_barrier reduce_precision pvary pcast".split()
)
# Rearrange the elements of their operand.
RESHAPES = frozenset("transpose reshape squeeze expand_dims broadcast_in_dim".split())
# Each element of the result depends on the elements at the same index only.
ELEMENTWISE = PASSTHROUGH | frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh div eq erf"
    " erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt"
    " max min mul ne neg nextafter not or pow rem round rsqrt select_n sign sin sinh sqrt square"
    " sub tan tanh xor digamma".split()
)
RANDOM = frozenset("random_bits random_gamma threefry2x32 rng_bit_generator rng_uniform".split())
REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or".split())
ACROSS_DEVICES = frozenset("psum psum_invariant pmax pmin".split())
PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
_OPEN = frozenset("custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit pjit".split())


def is_passthrough(op: Op) -> bool:
    """Returns whether an operation returns its operand, except for float dtype and layout.

    A cast to an integer does not: it rounds.
    """
    if op.name not in PASSTHROUGH | RESHAPES or len(op.ins) != 1 or len(op.outs) != 1:
        return False
    dtypes = (op.ins[0].aval.dtype, op.outs[0].aval.dtype)
    return dtypes[0] == dtypes[1] or all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)


def is_elementwise(op: Op) -> bool:
    """Returns whether each element of the one result depends on the same index only.

    A function with a custom derivative counts if its body does.
    """
    return len(op.outs) == 1 and _elementwise(op.eqn)


def _elementwise(eqn: Any) -> bool:
    if eqn.primitive.name in _OPEN:
        inner = [eqn for jaxpr, _ in inner_jaxprs(eqn) for eqn in jaxpr.eqns]
        return all(_elementwise(eqn) or _scalar(eqn) for eqn in inner)
    return eqn.primitive.name in ELEMENTWISE


def _scalar(eqn: Any) -> bool:
    """Returns whether an equation broadcasts a scalar, as for a constant."""
    return eqn.primitive.name == "broadcast_in_dim" and eqn.invars[0].aval.shape == ()


def holds_products(eqn: Any) -> bool:
    """Returns whether a jaxpr inside an equation may multiply by a kernel."""
    inner = [eqn for jaxpr, _ in inner_jaxprs(eqn) for eqn in jaxpr.eqns]
    return any(eqn.primitive.name in PRODUCTS or holds_products(eqn) for eqn in inner)
