"""What is added to a value further down: the other side of a residual connection."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# Equations that give back what they are given, laid out or stored otherwise.
_LAYOUTS = frozenset(
    "broadcast_in_dim convert_element_type copy expand_dims name reshape sharding_constraint"
    " squeeze transpose".split()
)


class Trail(NamedTuple):
    """A value that is a named one, laid out otherwise.

    Attributes:
      name: of the value.
      value: as it is now.
      back: brings what is laid out like it to the named value's own layout.
    """

    name: str
    value: Any
    back: Callable[[Any], Any]


class Trails:
    """The named values that a program carries on, up to where something is added to them."""

    def __init__(self):
        self._by_id: dict[int, Trail] = {}

    def start(self, name: str, value: Any) -> None:
        """Follows a value from here on."""
        self._by_id[id(value)] = Trail(name, value, lambda other: other)

    def follow(self, eqn: Any, operands: Sequence[Any], results: Sequence[Any]) -> None:
        """Goes on after an equation that lays a followed value out anew."""
        if self._by_id and eqn.primitive.name in _LAYOUTS and id(operands[0]) in self._by_id:
            trail, before = self._by_id[id(operands[0])], operands[0]
            if math.prod(results[0].shape) == math.prod(before.shape):
                back = _undo(eqn, before)
                self._by_id[id(results[0])] = Trail(
                    trail.name, results[0], lambda other: trail.back(back(other))
                )

    def beside(self, eqn: Any, operands: Sequence[Any]) -> tuple[str, Any] | None:
        """Returns what an equation adds to a followed value, by the name of that; it ends there."""
        if eqn.primitive.name not in ("add", "add_any"):
            return None
        for own, other in (operands, operands[::-1]):
            trail = self._by_id.get(id(own))
            same = getattr(other, "shape", None) == getattr(own, "shape", None)
            if trail is not None and same and other is not own:
                del self._by_id[id(own)]
                return trail.name, trail.back(other)
        return None


def _undo(eqn: Any, before: Any) -> Callable[[Any], Any]:
    """Returns the way back from an equation's result to the layout of its operand."""
    if eqn.primitive.name == "transpose":
        order = sorted(range(before.ndim), key=eqn.params["permutation"].__getitem__)
        return lambda other: other.transpose(order)
    return lambda other: other.reshape(before.shape).astype(before.dtype)
