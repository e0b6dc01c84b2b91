"""A function's jaxpr as a program that can be searched and rewritten.

Every value is one object and lists its users.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(eq=False, repr=False)
class Value:
    """One array of a program.

    Attributes:
      aval: its shape and dtype.
      maker: the operation that returns it, or the scan that returns it or passes it to its body;
        None for inputs of the program and for constants.
      constant: its array, if that is known; else None.
      layer_of: in the body of a scan, the stacked value outside of which this is one layer.
      users: the operations that read it, the scans that carry or return it, the values that are
        layers of it, and the program, if it is returned. Only users that an output depends on.
    """

    aval: Any
    maker: "Op | Region | None" = None
    constant: Any = None
    layer_of: "Value | None" = None
    users: "list[Op | Region | Value | Program]" = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array; () for values without one."""
        return tuple(getattr(self.aval, "shape", ()))


@dataclass(eq=False, repr=False)
class Op:
    """One operation: an equation that is not a call, with its operands and results."""

    eqn: Any
    scope: "Region | None"
    ins: list[Value]
    outs: list[Value] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.eqn.primitive.name


@dataclass(eq=False, repr=False)
class Region:
    """A call, a rematerialised call, a loop or a condition, with the operations inside.

    Operands and results of a call are the same values inside and outside. So are the constants of
    a loop and the operands of a condition; the carry and layers of a loop, and the results of both,
    are separate values inside. The body of a condition is its branches; that of a while loop its
    test and its step, as two branches.

    Attributes:
      kind: which it is.
      body: operations and regions, in order.
      ins: operands.
      outs: results.
      starts: of a loop, the initial carry.
      carried: of a loop, the carry inside its body.
      layers: of a scan, the values inside that are layers, each with the value outside.
      returned: of a loop, the values that its body returns, the carry first; of a while loop then
        its test.
    """

    eqn: Any
    scope: "Region | None"
    kind: Literal["call", "remat", "scan", "while", "cond", "branch"]
    ins: list[Value]
    body: "list[Op | Region]" = field(default_factory=list)
    outs: list[Value] = field(default_factory=list)
    starts: list[Value] = field(default_factory=list)
    carried: list[Value] = field(default_factory=list)
    layers: dict[Value, Value] = field(default_factory=dict)
    returned: list[Value] = field(default_factory=list)


@dataclass(eq=False, repr=False)
class Program:
    """A whole function.

    Attributes:
      leaves: the values that hold the params' leaves, in the order of the tree.
      inputs: the values that hold the other arguments' leaves.
      state: those of the inputs that are state: fixed as params are, but not trained.
      body: operations and regions, in order.
      outs: its outputs.
    """

    leaves: list[Value]
    inputs: list[Value]
    body: list[Op | Region]
    outs: list[Value]
    state: list[Value] = field(default_factory=list)

    def ops(self) -> Iterator[Op]:
        """Yields every operation in the order in which they run."""
        return ops_in(self.body)


def ops_in(body: Sequence[Op | Region]) -> Iterator[Op]:
    """Yields the operations of a body and of the regions in it, in order."""
    for item in body:
        if isinstance(item, Op):
            yield item
        else:
            yield from ops_in(item.body)


def branches_of(region: Region) -> list[Region]:
    """Returns the branches of a condition, or the step and the test of a while loop."""
    return [item for item in region.body if isinstance(item, Region)]


def blocks_around(item: Op | Region) -> list[Region]:
    """Returns the loops and branches around an operation, the outermost first.

    Their values cannot be taken outside, but for results.
    """
    blocks, scope = [], item.scope
    while scope is not None:
        if scope.kind in ("scan", "branch"):
            blocks.insert(0, scope)
        scope = scope.scope
    return blocks


def scans_around(item: Op | Region) -> list[Region]:
    """Returns the scans around an operation, the outermost first."""
    scans, scope = [], item.scope
    while scope is not None:
        if scope.kind == "scan":
            scans.insert(0, scope)
        scope = scope.scope
    return scans


def made_of(value: Value) -> list[Value]:
    """Returns the values that one is computed from directly, or the stack that it is a layer of."""
    operands = value.maker.ins if isinstance(value.maker, Op) else []
    return [*operands, *([] if value.layer_of is None else [value.layer_of])]


def ancestors(
    value: Value, before: Callable[[Value], Iterable[Value]] = made_of
) -> Iterator[Value]:
    """Yields a value and all values before it, each once.

    Args:
      value: the last.
      before: the values from which to go on at each.
    """
    seen, todo = set(), [value]
    while todo:
        value = todo.pop()
        if value not in seen:
            seen.add(value)
            yield value
            todo += before(value)


def sources(region: Region) -> Mapping[Value, list[Value]]:
    """Returns the origins of every value that a loop or condition returns or passes to its body.

    If any result of a loop is used, its whole carry is.
    """
    if region.kind == "cond":
        results = zip(*(branch.outs for branch in branches_of(region)), strict=True)
        pairs = zip(region.outs, results, strict=True)
        return {out: [region.ins[0], *inner] for out, inner in pairs}
    n_carried = len(region.carried)
    carried = [*region.starts, *region.returned[:n_carried]]
    if region.kind == "while":
        carried = [*region.starts, *region.returned]
        return dict.fromkeys([*region.carried, *region.outs], carried)
    made = dict.fromkeys([*region.carried, *region.outs[:n_carried]], carried)
    for out, inner in zip(region.outs[n_carried:], region.returned[n_carried:], strict=True):
        made[out] = [*carried, inner]
    return made | {layer: [outside] for layer, outside in region.layers.items()}
