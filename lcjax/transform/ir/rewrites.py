"""Rewrites of a program: substitutions for operations, and the dead code that they leave."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lcjax.transform.ir.dead_code import Dead, find_dead_code
from lcjax.transform.ir.program import Op, Region, Value

Read = Callable[[Value], Any]


@dataclass(frozen=True, eq=False, repr=False)
class Substitution:
    """A computation that takes the place of an operation.

    Attributes:
      op: the operation; it has one result, which the substitution returns.
      reads: the values of the program that it is computed from.
      compute: returns the result, given how to read values.
      keep_original: whether the operation runs too, so that compute may read its result.
    """

    op: Op
    reads: tuple[Value, ...]
    compute: Callable[[Read], Any]
    keep_original: bool = False


@dataclass(eq=False, repr=False)
class Rewrites:
    """How a program runs.

    Attributes:
      replaced: by the operation.
      dead: operations and values that are left out.
      touched: regions in which something is replaced or left out; they run opened.
      layers: of a scan, additional values inside its body, each with the stacked one outside.
      shown: of a call, the values inside that a substitution outside reads.
      flat: whether all calls run opened, so that every value outside of scans can be read.
      shifts: arrays that are added to results of operations, by the value.
    """

    replaced: dict[Op, Substitution] = field(default_factory=dict)
    dead: Dead = field(default_factory=set)
    touched: set[Region] = field(default_factory=set)
    layers: dict[Region, list[tuple[Value, Value]]] = field(default_factory=dict)
    shown: dict[Region, list[Value]] = field(default_factory=dict)
    flat: bool = False
    shifts: Mapping[Value, Any] = field(default_factory=dict)

    def is_live(self, value: Value) -> bool:
        """Returns whether a value of the program is still needed."""
        return bool(value.users) and value not in self.dead


def make_rewrites(
    substitutions: Sequence[Substitution],
    layers: Mapping[Region, list[tuple[Value, Value]]],
    dropped: Collection[Value] = (),
) -> Rewrites:
    """Returns the rewrites that these substitutions make.

    Args:
      substitutions: for different operations.
      layers: of scans, additional values inside their bodies.
      dropped: outputs that are not returned.
    """
    replaced_ops = [
        substitution.op for substitution in substitutions if not substitution.keep_original
    ]
    reads = [value for each in substitutions for value in each.reads]
    dead = find_dead_code(replaced_ops, reads, dropped)
    replaced = {substitution.op: substitution for substitution in substitutions}
    shown: dict[Region, list[Value]] = {}
    for each in substitutions:
        for value in each.reads:
            for region in _scopes(value.maker):
                if region not in _scopes(each.op):
                    shown.setdefault(region, []).append(value)
    changed = [*replaced, *(item for item in dead if isinstance(item, Op))]
    touched = {region for op in changed for region in _scopes(op)} | shown.keys()
    return Rewrites(replaced, dead, touched, dict(layers), shown)


def shifted(rewrites: Rewrites, shifts: Mapping[Value, Any]) -> Rewrites:
    """Returns rewrites that add arrays to results of operations too."""
    around = {region for value in shifts for region in _scopes(value.maker)}
    return replace(rewrites, touched=rewrites.touched | around, shifts=shifts)


def _scopes(item: Any) -> list[Region]:
    """Returns the regions around an operation, the innermost first."""
    scopes = []
    scope = item.scope if isinstance(item, Op) else None
    while scope is not None:
        scopes.append(scope)
        scope = scope.scope
    return scopes
