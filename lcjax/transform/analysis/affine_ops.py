"""The linear steps that may come between a Dense and an activation.

Norms, constants, masks, moves, cuts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.core import Tracer

from lcjax.transform.analysis.axes import AxisRoles, axes_of, roles_after, varies_by_unit
from lcjax.transform.analysis.dependence import (
    Dependence,
    Dependences,
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
        for value in dict.fromkeys(op.ins)
        if dependences[value] is Dependence.DATA
        and not is_statistic(value, dependences, tokens, len(roles))
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
    data = [value for value in op.ins if dependences[value] is Dependence.DATA]
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
        data = any(dependences[value] is Dependence.DATA for value in op.ins)
        nonlinear = nonlinear or (data and not is_linear(op, dependences))
    return nonlinear


def with_roles(steps: Sequence[AffineOp], roles: AxisRoles) -> list[AffineOp] | None:
    """Returns operations with the roles that follow from these; None if a role gets lost."""
    moved = []
    for step in steps:
        after = roles_after(step.op, roles)
        if after is None:
            return None
        roles = after
        moved.append(replace(step, roles=roles))
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
    """Returns which units a slice along the one axis of units keeps; None for other slices."""
    (axis, *more) = axes_of(roles, "unit")
    if more or len(out.shape) != len(value.shape):
        return None
    params = op.eqn.params
    if op.name == "split":
        if params["axis"] != axis:
            return None
        start = sum(map(int, params["sizes"][: op.outs.index(out)]))
        return start, start + out.shape[axis]
    rest = [i for i in range(len(roles)) if i != axis]
    whole = all(value.shape[i] == out.shape[i] for i in rest)
    stride = params["strides"]
    if not whole or (stride is not None and any(step != 1 for step in stride)):
        return None
    return int(params["start_indices"][axis]), int(params["limit_indices"][axis])
