"""LoRA: products of two narrow kernels that are added to the output of a Dense."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.analysis.dependence import Dependences, data_in
from lcjax.transform.analysis.reasons import Cause, Reason
from lcjax.transform.ir.primitives import PASSTHROUGH, RESHAPES
from lcjax.transform.ir.program import Op, Value

_MOVES = PASSTHROUGH | RESHAPES
_SCALES = frozenset({"mul", "div", "select_n"})  # α / rank, dropout
# Reasons that a product next to a kernel gives; with others between, it is not the obstacle.
_NEXT_TO_IT = frozenset({Cause.TWO_DENSES, Cause.SEVERAL, Cause.HIDDEN_USED, Cause.TWO_PARTS})


class Adapter(NamedTuple):
    """The two kernels of a LoRA product.

    Attributes:
      a: the Dense to the narrow width.
      b: the Dense from there.
    """

    a: DenseOp
    b: DenseOp


class Adapters:
    """The LoRA products of a program.

    Attributes:
      of: by the Dense to whose output they are added.
    """

    def __init__(self, denses: Mapping[Value, DenseOp], dependences: Dependences):
        self._dependences = dependences
        by_out = dict(denses) | {dense.out: dense for dense in denses.values()}
        self.of: dict[DenseOp, Adapter] = {}
        for b in denses.values():
            a = by_out.get(self._before(b.x, by_out))
            if a is None or a is b or not a.d_out < min(a.d_in, b.d_out):
                continue
            source = self._before(a.x, ())
            for other in self._added_to(b.out):
                dense = by_out.get(self._before(other, by_out))
                if dense not in (None, b) and self._before(dense.x, ()) is source:
                    self.of[dense] = Adapter(a, b)
        self._first = {adapter.a for adapter in self.of.values()}
        self._last = {adapter.b for adapter in self.of.values()}

    def reason(self, ups: Iterable[DenseOp], down: DenseOp, reason: Reason) -> Reason:
        """Returns a reason, or that of LoRA where a LoRA product is the obstacle.

        Args:
          ups: the layers.
          down: the Dense.
          reason: why they make no site.
        """
        if reason.cause not in _NEXT_TO_IT:
            return reason
        if down in self.of or down in self._first:
            return Reason(Cause.LORA, which="after")
        if any(up in self.of or up in self._last for up in ups):
            return Reason(Cause.LORA, which="before")
        return reason

    def within(self, ups: Iterable[DenseOp], down: DenseOp) -> bool:
        """Returns whether layers and the Dense after them are the two of one LoRA product."""
        return down in self._last and all(up in self._first for up in ups)

    def base_of(self, dense: DenseOp) -> DenseOp:
        """Returns the Dense to which a LoRA product with this one is added, or this one."""
        return next((base for base, adapter in self.of.items() if dense in adapter), dense)

    def _before(self, value: Value, stops: Collection[Value]) -> Value:
        """Returns the value that one is, but for scales, moves and dropout."""
        while value not in stops and isinstance(value.maker, Op):
            op = value.maker
            data = data_in(dict.fromkeys(op.ins), self._dependences)
            if op.name not in _MOVES | _SCALES or len(data) != 1:
                break
            value = data[0]
        return value

    def _added_to(self, value: Value) -> list[Value]:
        """Returns the values to which one is added."""
        found, todo = [], [value]
        while todo:
            value = todo.pop()
            for op in value.users:
                if isinstance(op, Op) and op.name in ("add", "add_any"):
                    found += [other for other in op.ins if other is not value]
                elif isinstance(op, Op) and op.name in _MOVES | _SCALES and len(op.outs) == 1:
                    todo += op.outs
        return found
