"""Gated units: the product of a gate and a value."""

from collections.abc import Collection, Iterable

from lcjax.transform.analysis.affine_ops import AffineOp, unit_slice_of
from lcjax.transform.analysis.axes import AxisRoles
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.analysis.dependence import Dependence, Dependences
from lcjax.transform.analysis.reasons import Cause, Reason
from lcjax.transform.ir.program import Op, Value
from lcjax.transform.matching.backward_slice import BackwardSlice
from lcjax.transform.matching.stepping import affine_ops_before
from lcjax.transform.matching.straight_path import normalised

_CUTS = frozenset({"slice", "split", "gather", "dynamic_slice", "unstack"})


def scales_of(
    gate: Value,
    roles: AxisRoles,
    upstream: BackwardSlice,
    dependences: Dependences,
    ends: Collection[Value],
) -> list[AffineOp]:
    """Returns the scaling at the end of a gate, which scales the value too: `c silu(g) v`.

    Args:
      gate: the gate.
      roles: of the gate.
      upstream: backward slice of the gate, with one Dense.
      dependences: of all values.
      ends: the outputs of Dense layers.
    """
    scales: list[AffineOp] = []
    for step in reversed(affine_ops_before(gate, roles, dependences, ends).ops):
        if step.shifts or step.unit_slice:
            break
        if step.by is not None or step.op.name == "neg":
            scales.insert(0, step)
    if scales and normalised(scales[0], upstream.denses[0].out, dependences, gate=True):
        return scales[1:]
    return scales


def why_one_kernel(ops: Iterable[Op], up: DenseOp, dependences: Dependences) -> Reason | None:
    """Returns why a product of two parts of one Dense's output is not a gated unit; else None.

    Args:
      ops: from the Dense after back to this one.
      up: the Dense.
      dependences: of all values.
    """
    products = [op for op in ops if op.name == "mul" and len(op.ins) == 2]
    reasons = (_why_parts(op, up, dependences) for op in products)
    return next((reason for reason in reasons if reason), None)


def _why_parts(op: Op, up: DenseOp, dependences: Dependences) -> Reason | None:
    first, second = (_cuts(value, up, dependences) for value in op.ins)
    if not first or not second or first == second:
        return None
    looked_through = all(
        cut.name in ("slice", "split")
        and cut.ins[0].shape == up.out.shape
        and unit_slice_of(cut, cut.ins[0], up.roles, out) is not None
        for out, cut in (*first.items(), *second.items())
    )
    return Reason(Cause.TWO_PARTS) if looked_through else Reason(Cause.ONE_KERNEL)


def _cuts(value: Value, up: DenseOp, dependences: Dependences) -> dict[Value, Op]:
    """Returns the slices of a Dense's output on the way to a value."""
    found: dict[Value, Op] = {}
    seen, todo = set(), [value]
    while todo:
        value = todo.pop()
        op = value.maker
        if value in seen or value is up.out or dependences[value] is not Dependence.DATA:
            continue
        seen.add(value)
        if isinstance(op, Op):
            found |= {value: op} if op.name in _CUTS else {}
            todo += op.ins
    return found
