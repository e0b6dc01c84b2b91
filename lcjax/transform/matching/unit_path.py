"""The operations between the Dense layers of a site, as they run on some of its units.

Every value between them has its axes in one layout, tokens first and units last, whatever the
program does with them; there units are counted as the rows of the kernel that reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lcjax.errors import CollapseError
from lcjax.transform.analysis.affine_ops import data_operands, unit_slice_of
from lcjax.transform.analysis.axes import AxisRoles, fixed_axes, roles_before
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.analysis.dependence import (
    Dependence,
    Dependences,
    known_given_params,
    varying_axes,
)
from lcjax.transform.ir.primitives import RESHAPES, is_elementwise
from lcjax.transform.ir.program import Op, Program, Value
from lcjax.transform.matching.find_sites import Analysis, MatchedSite


class Node(NamedTuple):
    """Some units of a value: those from `start` on; a kernel may hold gate and value."""

    value: Value
    start: int


class Source(NamedTuple):
    """The output of a Dense, where the operations start.

    Attributes:
      dense: the layer.
      columns: indices of its outputs that are the units; (d_hidden,).
      tokens: for each token axis of the Dense, which of the site's it is; None for one of size 1.
    """

    dense: DenseOp
    columns: np.ndarray
    tokens: tuple[int | None, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Outside:
    """An operand that does not come from the Dense layers.

    Attributes:
      value: the operand; for a scalar the value that was spread to be it.
      kind: "scalar" is the same everywhere, "vector" differs from unit to unit, "random" is a mask
        of random numbers, of which as many are taken as there are units.
      roles: of its axes.
      start: which of its units is the site's first.
      constant: whether it depends on nothing, so that no gradient goes there.
    """

    value: Value
    kind: Literal["scalar", "vector", "random"]
    roles: AxisRoles
    start: int
    constant: bool


class Step(NamedTuple):
    """An operation with its operands in order, and the result of interest."""

    op: Op
    ins: tuple[Node | Outside, ...]
    out: Node


@dataclass(frozen=True, eq=False, repr=False)
class UnitPath:
    """The operations of a site between its Dense layers.

    Attributes:
      steps: in an order in which operands come before their users.
      value: the output of the Dense before.
      gate: that of the gate's Dense; None of a plain activation.
      sources: the Dense of both.
      end: what the Dense after reads.
      vectors: the operands that differ from unit to unit, in order.
    """

    steps: tuple[Step, ...]
    value: Node
    gate: Node | None
    sources: dict[Node, Source]
    end: Node
    vectors: tuple[Outside, ...]

    @property
    def reads(self) -> list[Value]:
        """The values of the program that the operations read, but for vectors."""
        outside = [each for step in self.steps for each in step.ins if isinstance(each, Outside)]
        return [each.value for each in outside if each.kind != "vector"]


def unit_path(analysis: Analysis, site: MatchedSite) -> UnitPath:
    """Returns the operations of a site, as they run on some of its units.

    Raises:
      CollapseError: an operation that needs more than these units, such as a norm with statistics
        of the batch; names the site and the operation.
    """
    walk = _Walk(site, analysis.dependences)
    down = site.match.down
    numbers = {axis: ("unit", i) for i, axis in enumerate(down.x_axes)}
    roles = tuple(numbers.get(axis, role) for axis, role in enumerate(site.match.roles))
    end = Node(down.x, 0)
    walk.back(end, roles)
    first = site.match.up
    own = [node for node, source in walk.sources.items() if source.dense is first]
    own.sort(key=lambda node: node.start != _value_start(site))
    others = [node for node in walk.sources if node is not own[0]]
    if len(others) > 1:
        raise CollapseError(
            f"{site.path}: got {len(others)} gates, expected one: its units cannot be cut."
        )
    steps = _in_order(walk.steps, analysis.program)
    operands = [each for step in steps for each in step.ins if isinstance(each, Outside)]
    vectors = dict.fromkeys(each for each in operands if each.kind == "vector")
    return UnitPath(
        steps=tuple(steps),
        value=own[0],
        gate=others[0] if others else None,
        sources=walk.sources,
        end=end,
        vectors=tuple(vectors),
    )


class _Walk:
    """A search backwards from what the Dense after reads."""

    def __init__(self, site: MatchedSite, dependences: Dependences):
        self.site, self.dependences = site, dependences
        self.steps: dict[Node, Step] = {}
        self.sources: dict[Node, Source] = {}
        self._outside: dict[Node, Outside] = {}
        denses = [dense for dense in site.products if dense is not site.match.down]
        self._dense_of = {dense.product.outs[0]: dense for dense in denses}
        self._dense_of |= {dense.out: dense for dense in denses}

    def back(self, end: Node, roles: AxisRoles) -> None:
        todo = [(end, roles)]
        while todo:
            node, roles = todo.pop()
            if node in self.steps or node in self.sources:
                continue
            dense, op = self._dense_of.get(node.value), node.value.maker
            if dense is not None:
                self.sources[node] = _source(dense, node, roles, self.site)
                continue
            if not isinstance(op, Op):
                raise self._error("a loop")
            ins, earlier = self._operands(op, node, roles)
            self.steps[node] = Step(op, tuple(ins), node)
            todo += [(each, earlier) for each in ins if isinstance(each, Node)]

    def _operands(
        self, op: Op, node: Node, roles: AxisRoles
    ) -> tuple[list[Node | Outside], AxisRoles]:
        """Returns the operands of an operation, and the roles of those that are on the path."""
        if op.name in ("slice", "split"):
            cut = unit_slice_of(op, op.ins[0], roles, node.value)
            if cut is None:
                raise self._error(op.name)
            return [Node(op.ins[0], node.start + cut[0])], roles
        if op.name in RESHAPES:
            earlier = roles_before(op, op.ins[0], roles)
            if earlier is None:
                raise self._error(op.name)
            return [Node(op.ins[0], node.start)], earlier
        if not is_elementwise(op):
            raise self._error(op.name)
        data = data_operands(op, self.dependences, roles)
        return [
            Node(value, node.start) if value in data else self._read(op, value, node, roles)
            for value in op.ins
        ], roles

    def _read(self, op: Op, value: Value, node: Node, roles: AxisRoles) -> Outside:
        """Returns an operand from outside."""
        kind, axes = self.dependences[value], varying_axes(value)
        whole = len(value.shape) == len(roles)
        if kind is Dependence.DATA or (axes and not whole):
            raise self._error(op.name)
        if not axes and kind is not Dependence.RANDOM:
            while isinstance(value.maker, Op) and value.maker.name in RESHAPES:
                value = value.maker.ins[0]
            return Outside(value, "scalar", (), 0, kind is Dependence.CONSTANT)
        if not known_given_params(kind):
            return Outside(value, "random", roles if whole else (), 0, True)
        if not axes <= fixed_axes(roles):
            raise self._error(op.name)
        vector = Outside(value, "vector", roles, node.start, kind is Dependence.CONSTANT)
        return self._outside.setdefault(Node(value, node.start), vector)

    def _error(self, name: str) -> CollapseError:
        return CollapseError(
            f"{self.site.path}: `{name}` between its layers needs more than the units that stay. "
            "Call the function at inference, or collapse the site with another fit."
        )


def _value_start(site: MatchedSite) -> int:
    """Returns which output of the Dense before is the site's first unit."""
    steps = site.match.before + site.match.after
    return sum(step.unit_slice[0] for step in steps if step.unit_slice)


def _source(dense: DenseOp, node: Node, roles: AxisRoles, site: MatchedSite) -> Source:
    """Returns a Dense as a source of units, given the roles of its output in the site."""
    count = sum(1 for role in dense.roles if role and role[0] == "token")
    tokens: list[int | None] = [None] * count
    places: list[tuple[int, int]] = []  # for every unit axis of the Dense its place in the site
    for own, role in zip(dense.roles, roles, strict=True):
        if own and own[0] == "token":
            tokens[own[1]] = role[1] if role else None
        elif own:
            places.append((own[1], role[1] if role else -1))
    sizes = [dense.kernel.shape[axis] for axis in dense.kernel_out]
    order = [axis for axis, _ in sorted(places, key=lambda place: place[1])]
    columns = np.arange(dense.d_out).reshape(sizes).transpose(order).reshape(-1)
    width = site.match.down.d_in
    return Source(dense, columns[node.start : node.start + width], tuple(tokens))


def _in_order(steps: dict[Node, Step], program: Program) -> Sequence[Step]:
    """Returns steps in the order of the program."""
    place = {op: i for i, op in enumerate(program.ops())}
    return sorted(steps.values(), key=lambda step: (place[step.op], step.out.start))
