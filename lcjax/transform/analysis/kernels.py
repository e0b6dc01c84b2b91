"""Kernels and the leaves of the params: their names, and which kernels are not leaves."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from lcjax.transform.analysis.dense import DenseOp, origin_of, root
from lcjax.transform.analysis.dependence import Dependence, Dependences
from lcjax.transform.analysis.reasons import Cause, Reason, Rejected
from lcjax.transform.ir.program import Op, Program, Value, ancestors, blocks_around

PICKS = frozenset({"dynamic_slice", "gather"})


def leaves_of(value: Value, leaves: Collection[Value]) -> list[Value]:
    """Returns the leaves of the params that a value is computed from."""
    return [each for each in ancestors(value) if each in leaves]


def name_of(kernel: Value, named: Mapping[Value, str], called: Mapping[Value, str]) -> str:
    """Returns the name of the Dense with this kernel.

    Args:
      kernel: of the Dense.
      named: names of sites by the leaf of their first kernel.
      called: names of leaves.
    """
    origin, _ = origin_of(_stack(kernel) or kernel)
    if origin in named:
        return named[origin]
    return f"(from {', '.join(sorted(called[leaf] for leaf in leaves_of(kernel, called)))})"


def why_not_a_leaf(dense: DenseOp, which: str, called: Mapping[Value, str]) -> Reason | None:
    """Returns why the kernel of a Dense is not a leaf that can be fused; None if it is one.

    Args:
      dense: the Dense.
      which: "before" or "after" the activation.
      called: names of leaves.
    """
    origin, ops = origin_of(dense.kernel)
    quantized = why_quantized(dense, which, called)
    if quantized is not None:
        return quantized
    if any(op.name == "stop_gradient" for op in ops):
        return Reason(Cause.FROZEN, which=which)
    if dense.leaf is not None:
        return None
    if origin in called and not jnp.issubdtype(origin.aval.dtype, jnp.floating):
        return Reason(Cause.DTYPE, which=which, dtype=origin.aval.dtype.name)
    if _stack(dense.kernel) in called and blocks_around(dense.product):
        return Reason(Cause.PICKED)
    if _is_sum_with_product(dense.kernel):
        return Reason(Cause.LORA, which=which)
    return Reason(Cause.COMPUTED, which=which)


def why_quantized(dense: DenseOp, which: str, called: Mapping[Value, str]) -> Reason | None:
    """Returns the reason against a kernel that is made of integers or 8-bit floats; else None.

    Args:
      dense: the Dense.
      which: "before" or "after" the activation.
      called: names of leaves.
    """
    dtypes = [
        leaf.aval.dtype
        for leaf in leaves_of(dense.kernel, called)
        if leaf.shape and _is_quantized(leaf.aval.dtype)
    ]
    return Reason(Cause.QUANTIZED, which=which, dtype=dtypes[0].name) if dtypes else None


def _is_sum_with_product(kernel: Value) -> bool:
    """Returns whether a kernel is a sum with a product of two others, as of LoRA in the weights."""
    adds = [each.maker for each in ancestors(kernel) if isinstance(each.maker, Op)]
    sums = [op for op in adds if op.name in ("add", "add_any")]
    return any(
        each.maker.name == "dot_general" and each.shape == op.outs[0].shape
        for op in sums
        for value in op.ins
        for each in ancestors(value)
        if isinstance(each.maker, Op)
    )


def _is_quantized(dtype: Any) -> bool:
    if jnp.issubdtype(dtype, jnp.integer):
        return True
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits <= 8


def indexed_kernels(
    program: Program, dependences: Dependences, named: Mapping[Value, str]
) -> list[Rejected]:
    """Returns the kernels that a loop's counter picks out of a stack of them."""
    found: dict[str, None] = {}
    for op in program.ops():
        data = all(dependences[value] is Dependence.DATA for value in op.ins)
        if op.name == "dot_general" and data and blocks_around(op):
            stacks = [stack for value in op.ins if (stack := _stack(value)) is not None]
            found |= dict.fromkeys(named[stack] for stack in stacks if stack in named)
    return [(path, Reason(Cause.PICKED)) for path in found]


def _stack(kernel: Value) -> Value | None:
    """Returns the stack out of which a kernel is picked by an index."""
    maker = root(kernel)[0].maker
    if not isinstance(maker, Op) or maker.name not in PICKS:
        return None
    return root(maker.ins[0])[0]
