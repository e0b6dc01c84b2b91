"""Residual connections: what a program adds to a named value downstream."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

# Equations whose result is their operand in another layout or dtype.
_LAYOUTS = frozenset(
    "broadcast_in_dim convert_element_type copy expand_dims name reshape sharding_constraint"
    " squeeze transpose".split()
)


class _Tracked(NamedTuple):
    """A named value in another layout.

    Attributes:
      name: of the value.
      restore: brings an array of the present layout to the layout of the named value.
    """

    name: Hashable
    restore: Callable[[Any], Any]


class ResidualTracker:
    """Follows named values through a program up to the addition that joins a residual branch."""

    def __init__(self):
        self._by_id: dict[int, _Tracked] = {}

    def start(self, name: Hashable, value: Any) -> None:
        """Follows a value from here on."""
        self._by_id[id(value)] = _Tracked(name, lambda other: other)

    def follow(self, eqn: Any, operands: Sequence[Any], results: Sequence[Any]) -> None:
        """Continues after an equation that changes the layout of a followed value."""
        if self._by_id and eqn.primitive.name in _LAYOUTS and id(operands[0]) in self._by_id:
            tracked, before = self._by_id[id(operands[0])], operands[0]
            if math.prod(results[0].shape) == math.prod(before.shape):
                back = _inverse(eqn, before)
                self._by_id[id(results[0])] = _Tracked(
                    tracked.name, lambda other: tracked.restore(back(other))
                )

    def added(self, eqn: Any, operands: Sequence[Any]) -> tuple[Hashable, Any] | None:
        """Returns the name of a followed value and what an equation adds to it; then it stops."""
        if eqn.primitive.name not in ("add", "add_any"):
            return None
        for one, other in (operands, operands[::-1]):
            tracked = self._by_id.get(id(one))
            same = getattr(other, "shape", None) == getattr(one, "shape", None)
            if tracked is not None and same and other is not one:
                del self._by_id[id(one)]
                return tracked.name, tracked.restore(other)
        return None


def _inverse(eqn: Any, before: Any) -> Callable[[Any], Any]:
    """Returns the function from an equation's layout back to that of its operand."""
    if eqn.primitive.name == "transpose":
        order = sorted(range(before.ndim), key=eqn.params["permutation"].__getitem__)
        return lambda other: other.transpose(order)
    return lambda other: other.reshape(before.shape).astype(before.dtype)
