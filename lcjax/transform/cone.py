"""What a value is made of, back to the Dense layers that it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from lcjax.transform.dense import Dense
from lcjax.transform.kinds import Kind, Kinds
from lcjax.transform.labels import Labels, labels_before
from lcjax.transform.primitives import MOVES, PRODUCTS, REDUCTIONS, is_elementwise
from lcjax.transform.program import Op, Value
from lcjax.transform.steps import data_operands

_SUM = "a norm, softmax or pooling over units or tokens stands between"
_OTHER = "another value enters, which comes from no Dense"
_STATE = " (statistics of a norm fold in where they are given with the params or has_state=True)"


@dataclass
class Cone:
    """What a value is made of, back to the Dense layers: every operation elementwise, or named.

    Attributes:
      ops: the operations, from the value backwards.
      denses: the Dense layers it comes from.
      odd: what else it comes from, and what stands in the way.
    """

    ops: list[Op]
    denses: list[Dense]
    odd: list[str]

    @property
    def reason(self) -> str:
        """What to say of it where it is no activation of Dense layers; "" where it may be one."""
        return max(self.odd, key=lambda reason: reason.startswith(_SUM), default="")


class Cones:
    """Finds what values are made of.

    Attributes:
      dense_of: the Dense layers of the program, by the bare product and by the output.
      kinds: of all values.
    """

    def __init__(self, denses: Mapping[Value, Dense], kinds: Kinds):
        self.dense_of = dict(denses) | {dense.out: dense for dense in denses.values()}
        self.kinds = kinds

    def of(self, end: Value, labels: Labels) -> Cone:
        """Returns the cone of a value with these labels."""
        cone, seen, todo = Cone([], [], []), set(), [(end, labels)]
        while todo:
            value, labels = todo.pop()
            if value in seen:
                continue
            seen.add(value)
            op = value.maker
            if value in self.dense_of:
                dense = self.dense_of[value]
                cone.denses += [dense] if dense not in cone.denses else []
            elif not isinstance(op, Op):
                cone.odd.append(self._obstacle(value))
            elif op.name in MOVES or op.name in ("slice", "split"):
                earlier = labels_before(op, op.ins[0], labels)
                if earlier is None:
                    cone.odd.append(self._obstacle(value))
                else:
                    cone.ops.append(op)
                    todo.append((op.ins[0], earlier))
            elif is_elementwise(op):
                operands = data_operands(op, self.kinds, labels)
                cone.ops.append(op)
                for operand in operands:
                    if operand.shape == value.shape:
                        todo.append((operand, labels))
                    else:
                        cone.odd.append(self._obstacle(operand))
            else:
                cone.odd.append(self._obstacle(value))
        return cone

    def _obstacle(self, value: Value) -> str:
        """Returns what to say of a value that is in the way, by the operation that made it."""
        op, moved = value.maker, ""
        while isinstance(op, Op) and (op.name in MOVES or is_elementwise(op)):
            moved = op.name if op.name in MOVES else moved
            data = [operand for operand in op.ins if self.kinds[operand] is Kind.DATA]
            value = data[0] if data else value
            op = data[0].maker if data else None
            if moved and value in self.dense_of:
                return f"`{moved}` stands between, which merges or splits axes of tokens or units"
        if not isinstance(op, Op):
            return _OTHER if sum(size != 1 for size in value.shape) > 1 else _OTHER + _STATE
        if op.name in REDUCTIONS:
            return f"{_SUM} (`{op.name}`)"
        return f"`{op.name}` stands between, which does not work on every unit alone"

    def near(self, end: Value) -> list[Dense]:
        """Returns the Dense layers that a value comes from through whatever but products."""
        found, seen, todo = [], set(), [end]
        while todo:
            value = todo.pop()
            if value in seen or self.kinds[value] is not Kind.DATA:
                continue
            seen.add(value)
            if value in self.dense_of:
                found.append(self.dense_of[value])
                continue
            op = value.maker
            if isinstance(op, Op) and op.name not in PRODUCTS:
                todo += op.ins
            elif isinstance(op, Op) or jnp.issubdtype(value.aval.dtype, jnp.floating):
                return []  # what is no float, as an index or a condition, is no stream of values
        return found
