"""The linear steps that may come between a Dense and an activation.

Norms, constants, masks, moves, cuts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.core import Tracer

from lcjax.transform.analysis.axes import Labels, axes_of, moved_labels, varies_by_unit
from lcjax.transform.analysis.dependence import Kind, Kinds, is_fixed, is_statistic
from lcjax.transform.ir.primitives import MOVES, PRODUCTS, SAME, hands_on
from lcjax.transform.ir.program import Op, Region, Value, ops_in

AFFINE = frozenset({"add", "add_any", "sub", "mul", "div", "neg"})
_SHIFTS = frozenset({"add", "add_any", "sub"})


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One operation that hands a value on but for something linear in every unit.

    Attributes:
      op: the operation.
      value: the operand that it hands on.
      out: the result that is meant.
      by: what it is scaled or shifted by; None for nothing, and for dropout, which at inference
        does nothing.
      labels: of the result.
      cut: where it keeps some of the units only, the first and the one after the last.
    """

    op: Op
    value: Value
    out: Value
    by: Value | None
    labels: Labels
    cut: tuple[int, int] | None = None

    @property
    def shifts(self) -> bool:
        """Whether it adds something, so that nothing in is not nothing out."""
        return self.by is not None and self.op.name in _SHIFTS


def data_operands(op: Op, kinds: Kinds, labels: Labels) -> list[Value]:
    """Returns the operands that differ by token, those that do not being fixed or statistics.

    Args:
      op: any operation.
      kinds: of all values.
      labels: of its result.
    """
    tokens = axes_of(labels, "token")
    return [
        value
        for value in dict.fromkeys(op.ins)
        if kinds[value] is Kind.DATA and not is_statistic(value, kinds, tokens, len(labels))
    ]


def read_step(op: Op, value: Value, labels: Labels, kinds: Kinds, out: Value) -> Step | None:
    """Returns an operation as a step that hands on a value; None where it is none.

    Args:
      op: the operation.
      value: the one of its operands to be handed on.
      labels: of the result.
      kinds: of all values.
      out: the one of its results that is meant.
    """
    if hands_on(op):
        return Step(op, value, out, None, labels)
    if op.name in ("slice", "split"):
        cut = _cut(op, value, labels, out)
        return Step(op, value, out, None, labels, cut) if cut else None
    if data_operands(op, kinds, labels) != [value] or op.ins.count(value) > 1:
        return None
    others = [operand for operand in op.ins if operand is not value]
    if op.name == "select_n":
        if drops(op, kinds):
            return Step(op, value, out, None, labels)
        by = op.ins[0]
        masks = _masks(op, kinds) and varies_by_unit(by, labels)
        return Step(op, value, out, by, labels) if masks else None
    if op.name not in AFFINE:
        return None
    if not others:
        return Step(op, value, out, None, labels)
    (by,) = others
    if kinds[by] is Kind.RANDOM:
        return Step(op, value, out, None, labels) if op.name == "mul" else None
    if op.name == "div" and op.ins[0] is not value:
        return None
    if kinds[by] is Kind.DATA:
        return Step(op, value, out, by, labels)
    if not varies_by_unit(by, labels) or (is_scalar(by, kinds) and in_activation(op, kinds)):
        return None
    return Step(op, value, out, by, labels)


def is_scalar(value: Value, kinds: Kinds) -> bool:
    """Tells whether a value is one constant."""
    return kinds[value] is Kind.CONSTANT and value.aval.size == 1


def is_linear(op: Op, kinds: Kinds) -> bool:
    """Tells whether an operation is affine in the data: it adds or multiplies by what is not."""
    data = [value for value in op.ins if kinds[value] is Kind.DATA]
    if hands_on(op) or op.name in ("slice", "split"):
        return True
    if op.name == "select_n":
        return drops(op, kinds) or (len(data) == 1 and kinds[op.ins[0]] is not Kind.DATA)
    if op.name in ("add", "add_any") and len(data) == 2:
        return data[0] is data[1]
    return op.name in AFFINE and len(data) == 1 and not (op.name == "div" and op.ins[1] is data[0])


def in_activation(op: Op, kinds: Kinds) -> bool:
    """Tells whether an operation is inside a jitted function that is an activation.

    As those of jax.nn are; constants in it belong to the activation: the 1.05 of selu is no scale.
    """
    scope = op.scope
    while scope is not None:
        if scope.kind == "call" and _is_activation(scope, kinds):
            return True
        scope = scope.scope
    return False


def _is_activation(region: Region, kinds: Kinds) -> bool:
    """Tells whether a call works on data, other than linearly, and multiplies by no kernel."""
    bends = False
    for op in ops_in(region.body):
        if op.name in PRODUCTS:
            return False
        data = any(kinds[value] is Kind.DATA for value in op.ins)
        bends = bends or (data and not is_linear(op, kinds))
    return bends


def relabelled(steps: Sequence[Step], labels: Labels) -> list[Step] | None:
    """Returns the steps with the labels that these lead to; None where they get lost."""
    moved = []
    for step in steps:
        after = moved_labels(step.op, labels)
        if after is None:
            return None
        labels = after
        moved.append(replace(step, labels=labels))
    return moved


def applied(step: Step, scale: Any, shift: Any, by: Any) -> tuple[Any, Any]:
    """Returns scale and shift, vectors over units, of what is so far followed by a step.

    Args:
      step: the step.
      scale: s of `s ⊙ z + t` before it; (..., d).
      shift: t before it.
      by: what it scales or shifts by, a vector over units; None for nothing.
    """
    if step.cut:
        start, stop = step.cut
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


def drops(op: Op, kinds: Kinds) -> bool:
    """Tells whether a choice by random numbers is between a value and zeros."""
    return kinds[op.ins[0]] is Kind.RANDOM and _between_value_and_zeros(op, kinds)


def _masks(op: Op, kinds: Kinds) -> bool:
    """Tells whether a choice by what is fixed is between a value and zeros."""
    return is_fixed(kinds[op.ins[0]]) and _between_value_and_zeros(op, kinds)


def _between_value_and_zeros(op: Op, kinds: Kinds) -> bool:
    _, *cases = op.ins
    zeros = [case for case in cases if is_fixed(kinds[case]) and _is_zero(case)]
    return len(cases) == 2 and len(zeros) == 1


def _is_zero(value: Value) -> bool:
    while value.constant is None and isinstance(value.maker, Op):
        if value.maker.name not in SAME | MOVES:
            return False
        value = value.maker.ins[0]
    known = value.constant is not None and not isinstance(value.constant, Tracer)
    return known and not np.any(np.asarray(value.constant))


def _cut(op: Op, value: Value, labels: Labels, out: Value) -> tuple[int, int] | None:
    """Returns which units a slice along the one axis of units keeps; None for other slices."""
    (axis, *more) = axes_of(labels, "unit")
    if more or len(out.shape) != len(value.shape):
        return None
    params = op.eqn.params
    if op.name == "split":
        if params["axis"] != axis:
            return None
        start = sum(map(int, params["sizes"][: op.outs.index(out)]))
        return start, start + out.shape[axis]
    rest = [i for i in range(len(labels)) if i != axis]
    whole = all(value.shape[i] == out.shape[i] for i in rest)
    stride = params["strides"]
    if not whole or (stride is not None and any(step != 1 for step in stride)):
        return None
    return int(params["start_indices"][axis]), int(params["limit_indices"][axis])
