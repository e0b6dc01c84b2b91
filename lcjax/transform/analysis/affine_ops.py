"""The linear steps that may come between a Dense and an activation.

Norms, constants, masks, moves, cuts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.core import Tracer

from lcjax.transform.analysis.axes import AxisRoles, axes_of, roles_after, varies_by_unit
from lcjax.transform.analysis.dependence import (
    Dependence,
    Dependences,
    data_in,
    is_statistic,
    known_given_params,
)
from lcjax.transform.ir.primitives import PASSTHROUGH, PRODUCTS, RESHAPES, is_passthrough
from lcjax.transform.ir.program import Op, Region, Value, ops_in

AFFINE = frozenset({"add", "add_any", "sub", "mul", "div", "neg"})
_SHIFTS = frozenset({"add", "add_any", "sub"})


@dataclass(frozen=True, eq=False, repr=False)
class AffineOp:
    """An operation that is affine in each unit of one operand.

    Attributes:
      op: the operation.
      value: that operand.
      out: the result, one of several for a split.
      by: the factor or summand; None where there is none, and for dropout, which is the identity
        at inference.
      roles: of the result.
      unit_slice: if it keeps some of the units only, the first and the one after the last.
    """

    op: Op
    value: Value
    out: Value
    by: Value | None
    roles: AxisRoles
    unit_slice: tuple[int, int] | None = None

    @property
    def shifts(self) -> bool:
        """Whether it adds a summand, so that 0 does not stay 0."""
        return self.by is not None and self.op.name in _SHIFTS


def data_operands(op: Op, dependences: Dependences, roles: AxisRoles) -> list[Value]:
    """Returns the operands that differ by token: those that are neither fixed nor statistics.

    Args:
      op: any operation.
      dependences: of all values.
      roles: of its result.
    """
    tokens = axes_of(roles, "token")
    return [
        value
        for value in data_in(dict.fromkeys(op.ins), dependences)
        if not is_statistic(value, dependences, tokens, len(roles))
    ]


def read_affine_op(
    op: Op, value: Value, roles: AxisRoles, dependences: Dependences, out: Value
) -> AffineOp | None:
    """Returns an operation as affine in one of its operands; None if it is not.

    Args:
      op: the operation.
      value: the operand.
      roles: of the result.
      dependences: of all values.
      out: the result of interest.
    """
    if is_passthrough(op):
        return AffineOp(op, value, out, None, roles)
    if op.name in ("slice", "split"):
        unit_slice = unit_slice_of(op, value, roles, out)
        return AffineOp(op, value, out, None, roles, unit_slice) if unit_slice else None
    if data_operands(op, dependences, roles) != [value] or op.ins.count(value) > 1:
        return None
    others = [operand for operand in op.ins if operand is not value]
    if op.name == "select_n":
        if is_dropout_select(op, dependences):
            return AffineOp(op, value, out, None, roles)
        by = op.ins[0]
        masks = _masks(op, dependences) and varies_by_unit(by, roles)
        return AffineOp(op, value, out, by, roles) if masks else None
    if op.name not in AFFINE:
        return None
    if not others:
        return AffineOp(op, value, out, None, roles)
    (by,) = others
    if dependences[by] is Dependence.RANDOM:
        return AffineOp(op, value, out, None, roles) if op.name == "mul" else None
    if op.name == "div" and op.ins[0] is not value:
        return None
    if dependences[by] is Dependence.DATA:
        return AffineOp(op, value, out, by, roles)
    if not varies_by_unit(by, roles) or (
        is_scalar(by, dependences) and in_activation(op, dependences)
    ):
        return None
    return AffineOp(op, value, out, by, roles)


def is_scalar(value: Value, dependences: Dependences) -> bool:
    """Returns whether a value is one constant."""
    return dependences[value] is Dependence.CONSTANT and value.aval.size == 1


def is_linear(op: Op, dependences: Dependences) -> bool:
    """Returns whether an operation is affine in its data operands."""
    data = data_in(op.ins, dependences)
    if is_passthrough(op) or op.name in ("slice", "split"):
        return True
    if op.name == "select_n":
        return is_dropout_select(op, dependences) or (
            len(data) == 1 and dependences[op.ins[0]] is not Dependence.DATA
        )
    if op.name in ("add", "add_any") and len(data) == 2:
        return data[0] is data[1]
    return op.name in AFFINE and len(data) == 1 and not (op.name == "div" and op.ins[1] is data[0])


def in_activation(op: Op, dependences: Dependences) -> bool:
    """Returns whether an operation is inside a jitted activation, such as those of jax.nn.

    Constants there belong to the activation: the 1.05 of selu is not a scale of its input.
    """
    scope = op.scope
    while scope is not None:
        if scope.kind == "call" and _is_activation(scope, dependences):
            return True
        scope = scope.scope
    return False


def _is_activation(region: Region, dependences: Dependences) -> bool:
    """Returns whether a call is nonlinear in data and does not multiply by a kernel."""
    nonlinear = False
    for op in ops_in(region.body):
        if op.name in PRODUCTS:
            return False
        data = bool(data_in(op.ins, dependences))
        nonlinear = nonlinear or (data and not is_linear(op, dependences))
    return nonlinear


def with_roles(steps: Sequence[AffineOp], roles: AxisRoles) -> list[AffineOp] | None:
    """Returns operations with the roles that follow from these; None if a role gets lost.

    Units are counted anew: those of a slice may have several axes, of which it removes one.
    """
    moved = []
    for step in steps:
        after, units = roles_after(step.op, roles), step.unit_slice
        if units is not None:
            units = unit_slice_of(step.op, step.value, roles, step.out)
        if after is None or (units is None) != (step.unit_slice is None):
            return None
        roles = after
        moved.append(replace(step, roles=roles, unit_slice=units))
    return moved


def compose(step: AffineOp, scale: Any, shift: Any, by: Any) -> tuple[Any, Any]:
    """Returns scale and shift, vectors over units, of an affine map followed by an operation.

    Args:
      step: the operation.
      scale: s of the map `s ⊙ z + t`; (..., d).
      shift: t of the map; (..., d).
      by: the factor or summand, a vector over units; None if there is none.
    """
    if step.unit_slice:
        start, stop = step.unit_slice
        return scale[..., start:stop], shift[..., start:stop]
    if step.op.name == "neg":
        return -scale, -shift
    if by is None:
        return scale, shift
    first = step.op.ins[0] is step.value
    match step.op.name:
        case "add" | "add_any":
            return scale, shift + by
        case "sub":
            return (scale, shift - by) if first else (-scale, by - shift)
        case "mul":
            return scale * by, shift * by
        case "select_n":
            kept = by if step.op.ins[2] is step.value else 1 - by
            return scale * kept, shift * kept
    return scale / by, shift / by


def is_dropout_select(op: Op, dependences: Dependences) -> bool:
    """Returns whether a select by random numbers is between a value and zeros."""
    return dependences[op.ins[0]] is Dependence.RANDOM and _between_value_and_zeros(op, dependences)


def _masks(op: Op, dependences: Dependences) -> bool:
    """Returns whether a select by a fixed condition is between a value and zeros."""
    return known_given_params(dependences[op.ins[0]]) and _between_value_and_zeros(op, dependences)


def _between_value_and_zeros(op: Op, dependences: Dependences) -> bool:
    _, *cases = op.ins
    zeros = [case for case in cases if known_given_params(dependences[case]) and _is_zero(case)]
    return len(cases) == 2 and len(zeros) == 1


def _is_zero(value: Value) -> bool:
    while value.constant is None and isinstance(value.maker, Op):
        if value.maker.name not in PASSTHROUGH | RESHAPES:
            return False
        value = value.maker.ins[0]
    known = value.constant is not None and not isinstance(value.constant, Tracer)
    return known and not np.any(np.asarray(value.constant))


def unit_slice_of(op: Op, value: Value, roles: AxisRoles, out: Value) -> tuple[int, int] | None:
    """Returns which units a slice along one axis of units keeps; None for other slices.

    Units are counted with the axes in the order of their numbers. An axis without a role is taken
    for one of units that comes before the others: going backwards, an axis of which one element
    stays, as of gate and value next to each other, has no role yet.
    """
    params = op.eqn.params
    cut = [axis for axis, size in enumerate(value.shape) if size != out.shape[axis]]
    units = axes_of(roles, "unit")
    if len(cut) > 1 or (not cut and not units):
        return None
    axis = cut[0] if cut else min(units)
    role = roles[axis]
    if role is not None and role[0] != "unit":
        return None
    number = -1 if role is None else role[1]
    numbers = {r[1]: value.shape[a] for a, r in enumerate(roles) if r and a in units and a != axis}
    if any(size > 1 for other, size in numbers.items() if other < number):
        return None
    inner = math.prod(size for other, size in numbers.items() if other > number)
    if op.name == "split":
        start = sum(map(int, params["sizes"][: op.outs.index(out)]))
        start = start if params["axis"] == axis else 0
        return start * inner, (start + out.shape[axis]) * inner
    stride = params["strides"]
    if stride is not None and any(step != 1 for step in stride):
        return None
    start, stop = (int(params[f"{end}_indices"][axis]) for end in ("start", "limit"))
    return start * inner, stop * inner
