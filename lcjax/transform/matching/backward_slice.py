"""Backward slices: the operations between a value and the Dense layers that it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from lcjax.transform.analysis.affine_ops import data_operands
from lcjax.transform.analysis.axes import AxisRoles, roles_before
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.analysis.dependence import Dependence, Dependences, data_in
from lcjax.transform.analysis.reasons import Cause, Reason
from lcjax.transform.ir.primitives import PRODUCTS, REDUCTIONS, RESHAPES, is_elementwise
from lcjax.transform.ir.program import Op, Region, Value, ancestors, sources

_MOST_DENSES = 2  # gate and value


@dataclass
class BackwardSlice:
    """The operations that compute a value, back to Dense layers.

    Attributes:
      ops: the operations, from the value backwards.
      denses: the Dense layers it comes from.
      obstacles: reasons why it is not a function of Dense layers unit by unit.
      truncated: whether the search ended early, at more Dense layers than a site has.
    """

    ops: list[Op]
    denses: list[DenseOp]
    obstacles: list[Reason]
    truncated: bool = False

    @property
    def reason(self) -> Reason | None:
        """Why it is not an activation of Dense layers; None if it may be one."""
        reductions = (reason for reason in self.obstacles if reason.cause is Cause.REDUCTION)
        return next(reductions, self.obstacles[0] if self.obstacles else None)


class Slicer:
    """Finds backward slices.

    Attributes:
      dense_of: the Dense layers of the program, by the bare product and by the output.
      dependences: of all values.
    """

    def __init__(self, denses: Mapping[Value, DenseOp], dependences: Dependences):
        self.dense_of = dict(denses) | {dense.out: dense for dense in denses.values()}
        self.dependences = dependences
        self._walked: set[Value] = set()

    def of(self, end: Value, roles: AxisRoles) -> BackwardSlice:
        """Returns the backward slice of a value with these roles.

        The search ends where more Dense layers are found than a site has: a value of a residual
        stream comes from every layer before it, and to follow all of them from each would take
        quadratic time.
        """
        upstream, seen, todo = BackwardSlice([], [], []), set(), [(end, roles)]
        while todo:
            value, roles = todo.pop()
            if len({dense.product for dense in upstream.denses}) > _MOST_DENSES:
                upstream.truncated = True
                break
            if value in seen:
                continue
            seen.add(value)
            op = value.maker
            if value in self.dense_of:
                dense = self.dense_of[value]
                upstream.denses += [dense] if dense not in upstream.denses else []
            elif not isinstance(op, Op):
                upstream.obstacles.append(self._obstacle(value))
            elif op.name in RESHAPES or op.name in ("slice", "split"):
                earlier = roles_before(op, op.ins[0], roles)
                if earlier is None:
                    upstream.obstacles.append(self._obstacle(value))
                else:
                    upstream.ops.append(op)
                    todo.append((op.ins[0], earlier))
            elif is_elementwise(op):
                operands = data_operands(op, self.dependences, roles)
                upstream.ops.append(op)
                for operand in operands:
                    if operand.shape == value.shape:
                        todo.append((operand, roles))
                    else:
                        upstream.obstacles.append(self._obstacle(operand))
            else:
                upstream.obstacles.append(self._obstacle(value))
        return upstream

    def _obstacle(self, value: Value) -> Reason:
        """Returns why a value is an obstacle, by the operation that made it."""
        if not self._comes_from_dense(value):
            return self._other(value)
        if isinstance(value.maker, Region):
            return Reason(Cause.NOT_BY_UNIT, op=value.maker.kind)
        op, moved = value.maker, ""
        while isinstance(op, Op) and (op.name in RESHAPES or is_elementwise(op)):
            moved = op.name if op.name in RESHAPES else moved
            data = data_in(op.ins, self.dependences)
            value = data[0] if data else value
            op = data[0].maker if data else None
            if moved and value in self.dense_of:
                return Reason(Cause.MERGES, op=moved)
        if not isinstance(op, Op):
            return Reason(Cause.OTHER)
        if op.name in REDUCTIONS:
            return Reason(Cause.REDUCTION, op=op.name)
        return Reason(Cause.NOT_BY_UNIT, op=op.name)

    def _other(self, value: Value) -> Reason:
        """Returns why a value that does not come from a Dense is an obstacle."""
        while isinstance(value.maker, Op):
            data = data_in(value.maker.ins, self.dependences)
            if not data or not (value.maker.name in RESHAPES or is_elementwise(value.maker)):
                return Reason(Cause.OTHER)
            value = data[0]
        by_unit = sum(size != 1 for size in value.shape) <= 1
        floats = jnp.issubdtype(value.aval.dtype, jnp.floating)
        return Reason(Cause.OTHER_STATISTICS if by_unit and floats else Cause.OTHER)

    def _comes_from_dense(self, end: Value) -> bool:
        def before(value: Value) -> list[Value]:
            op = value.maker
            if isinstance(op, Op):
                return [] if op.name in PRODUCTS else data_in(op.ins, self.dependences)
            return data_in(_branches(value), self.dependences)

        return any(value in self.dense_of for value in ancestors(end, before))

    def upstream_denses(self, end: Value) -> tuple[list[DenseOp], bool]:
        """Returns the Dense layers that a value comes from through anything but products.

        Also returns whether other values enter: inputs, products of data, and values that an
        earlier call visited, so that of a residual stream each Dense is returned once.
        """
        found: list[DenseOp] = []
        mixed, todo = False, [end]
        own: set[Value] = set()
        while todo:
            value = todo.pop()
            if value in own or self.dependences[value] is not Dependence.DATA:
                continue
            own.add(value)
            if value in self.dense_of:
                found.append(self.dense_of[value])
                continue
            op = value.maker
            if value in self._walked:
                mixed = True
            elif _branches(value):
                todo += reversed(_branches(value))
            elif isinstance(op, Op) and op.name not in PRODUCTS:
                todo += reversed(op.ins)
            elif isinstance(op, Op) or jnp.issubdtype(value.aval.dtype, jnp.floating):
                mixed = True  # indices and conditions do not count
        self._walked |= own
        return found, mixed


def _branches(value: Value) -> list[Value]:
    """Returns the values that a condition returns for one, and its index; else none."""
    maker = value.maker
    if not isinstance(maker, Region) or maker.kind != "cond":
        return []
    return sources(maker)[value]
