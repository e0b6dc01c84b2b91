"""How a program is to run: which operations are replaced by what, and which are left out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lcjax.transform.ir.dead_code import Dead, find_dead_code
from lcjax.transform.ir.program import Op, Region, Value

Read = Callable[[Value], Any]


@dataclass(frozen=True, eq=False, repr=False)
class Substitution:
    """What an operation is replaced by.

    Attributes:
      op: the operation; its one result is what the replacement returns.
      reads: the values of the program that it is computed from.
      compute: returns the result, given how to read values.
      keep_original: the operation is run all the same, and compute may read its result.
    """

    op: Op
    reads: tuple[Value, ...]
    compute: Callable[[Read], Any]
    keep_original: bool = False


@dataclass(eq=False, repr=False)
class Rewrites:
    """How a program is to run.

    Attributes:
      replaced: by the operation.
      dead: operations and values that are left out.
      touched: regions in which something is replaced or left out, which thus run opened.
      layers: of a scan, the values that its body is handed besides, each with the one outside.
      shown: of a call, the values inside that a replacement outside of it reads.
      flat: whether all calls run opened, so that every value outside of scans can be looked at.
    """

    replaced: dict[Op, Substitution] = field(default_factory=dict)
    dead: Dead = field(default_factory=set)
    touched: set[Region] = field(default_factory=set)
    layers: dict[Region, list[tuple[Value, Value]]] = field(default_factory=dict)
    shown: dict[Region, list[Value]] = field(default_factory=dict)
    flat: bool = False

    def is_live(self, value: Value) -> bool:
        """Tells whether a value of the program is still needed."""
        return bool(value.users) and value not in self.dead


def make_rewrites(
    replacements: Sequence[Substitution],
    layers: Mapping[Region, list[tuple[Value, Value]]],
    dropped: Collection[Value] = (),
) -> Rewrites:
    """Returns the plan that these replacements make.

    Args:
      replacements: of different operations.
      layers: of scans, what their bodies are handed besides.
      dropped: outputs that are not returned.
    """
    instead = [replacement.op for replacement in replacements if not replacement.keep_original]
    reads = [value for each in replacements for value in each.reads]
    dead = find_dead_code(instead, reads, dropped)
    replaced = {replacement.op: replacement for replacement in replacements}
    shown: dict[Region, list[Value]] = {}
    for each in replacements:
        for value in each.reads:
            for region in _scopes(value.maker):
                if region not in _scopes(each.op):
                    shown.setdefault(region, []).append(value)
    changed = [*replaced, *(item for item in dead if isinstance(item, Op))]
    touched = {region for op in changed for region in _scopes(op)} | shown.keys()
    return Rewrites(replaced, dead, touched, dict(layers), shown)


def _scopes(item: Any) -> list[Region]:
    """Returns the regions that an operation is in, the innermost first."""
    scopes = []
    scope = item.scope if isinstance(item, Op) else None
    while scope is not None:
        scopes.append(scope)
        scope = scope.scope
    return scopes
