"""Products with kernels that are not Dense layers: batched, grouped, or indexed by the data."""

from collections.abc import Mapping
from typing import NamedTuple

from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.analysis.dependence import Dependence, Dependences, data_in, known_given_params
from lcjax.transform.analysis.kernels import PICKS, leaves_of, name_of
from lcjax.transform.analysis.reasons import Cause, Reason, Rejected
from lcjax.transform.ir.primitives import PASSTHROUGH, PRODUCTS, RESHAPES
from lcjax.transform.ir.program import Op, Program, Value, ancestors

_GROUPED = frozenset({"ragged_dot", "ragged_dot_general"})  # of jax.lax.ragged_dot


class Other(NamedTuple):
    """A product of data with a kernel that is not a Dense layer.

    Attributes:
      x: the data.
      kernel: the other operand.
      reason: why it is read as none.
    """

    x: Value
    kernel: Value
    reason: Reason


class Others:
    """Finds where such products and Dense layers feed each other."""

    def __init__(self, program: Program, denses: Mapping[Value, DenseOp], dependences: Dependences):
        self._dependences, self._denses = dependences, denses
        self._others: dict[Value, Other] = {}
        self._leaves = dict.fromkeys(program.leaves)
        for op in program.ops():
            other = self._read(op) if op.outs and op.outs[0].users else None
            if other is not None and op.outs[0] not in denses:
                self._others[op.outs[0]] = other
        self._products = {*denses, *self._others}

    def pairs(self, named: Mapping[Value, str], called: Mapping[Value, str]) -> list[Rejected]:
        """Returns the pairs with such a product before or after, each with the reason against it.

        Args:
          named: names of sites by the leaf of their first kernel.
          called: names of leaves.
        """
        rows: dict[Rejected, None] = {}
        if not self._others:
            return []
        downs: list[tuple[Value, Reason | None]] = [
            (each.x, each.reason) for each in self._others.values()
        ]
        downs += [(each.x, None) for each in self._denses.values()]
        for x, reason in downs:
            for up in self._before(x):
                other = self._others.get(up)
                kernel = self._denses[up].kernel if other is None else other.kernel
                why = reason if other is None else other.reason
                if why:
                    rows.setdefault((name_of(kernel, named, called), why))
        return list(rows)

    def _before(self, value: Value) -> list[Value]:
        """Returns the products with kernels that a value comes from."""

        def before(value: Value) -> list[Value]:
            op = value.maker
            if value in self._products or not isinstance(op, Op) or op.name in PRODUCTS:
                return []
            return data_in(reversed(op.ins), self._dependences)

        return [each for each in ancestors(value, before) if each in self._products]

    def _read(self, op: Op) -> Other | None:
        if op.name in _GROUPED:
            x, kernel = op.ins[:2]
            fixed = (
                known_given_params(self._dependences[kernel])
                and self._dependences[x] is Dependence.DATA
            )
            return Other(x, kernel, Reason(Cause.RAGGED, op="ragged_dot")) if fixed else None
        if op.name != "dot_general":
            return None
        for x, kernel in (op.ins, op.ins[::-1]):
            if self._dependences[x] is not Dependence.DATA:
                continue
            if self._dependences[kernel] is Dependence.PARAM:
                return Other(x, kernel, Reason(Cause.BATCHED)) if self._is_batched(op) else None
            if self._dependences[kernel] is Dependence.DATA and (pick := self._pick(kernel)):
                return Other(x, kernel, Reason(Cause.GATHERED, op=pick))
        return None

    def _is_batched(self, op: Op) -> bool:
        contracted, batch = op.eqn.params["dimension_numbers"]
        return any(batch) and bool(contracted[0])

    def _pick(self, value: Value) -> str | None:
        """Returns which operation picks a value out of params, by an index that is data."""
        op = value.maker
        while isinstance(op, Op) and op.name in PASSTHROUGH | RESHAPES:
            value = op.ins[0]
            op = value.maker
        if (
            not isinstance(op, Op)
            or op.name not in PICKS
            or not known_given_params(self._dependences[op.ins[0]])
        ):
            return None
        return op.name if leaves_of(op.ins[0], self._leaves) else None
