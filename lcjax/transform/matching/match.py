"""The sites of a program: Dense → activation → Dense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lcjax.transform.analysis.affine_ops import AffineOp, data_operands, is_linear, with_roles
from lcjax.transform.analysis.axes import AxisRoles
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.analysis.dependence import Dependences
from lcjax.transform.analysis.reasons import Cause, Reason
from lcjax.transform.ir.primitives import is_elementwise
from lcjax.transform.ir.program import Op, Value
from lcjax.transform.matching.backward_slice import BackwardSlice, Slicer
from lcjax.transform.matching.gates import scales_of, why_one_kernel
from lcjax.transform.matching.stepping import steps_back, steps_on
from lcjax.transform.matching.straight_path import differs_by_token, halted, normalised, unfolded


@dataclass(frozen=True, eq=False, repr=False)
class Match:
    """An activation between two Dense layers.

    Attributes:
      up: the Dense before; of a gated unit the one of the value.
      before: linear steps from up's output to the activation's input.
      start: what the activation is given; of a gated unit its value.
      end: what it returns; of a gated unit the product of gate and value.
      after: linear steps from there to the input of the Dense after.
      down: the Dense after.
      roles: of down's input, its tokens and units counted as up's output has them.
      inside: the operations of the activation; none of a gated unit, whose gate has more inputs.
      unit_axes: for every unit axis of up, the number of the unit axis of down's input that it is.
      on_gate: of a gated unit, the steps that scale its gate, which scale the value as well.
    """

    up: DenseOp
    before: tuple[AffineOp, ...]
    start: Value
    end: Value
    after: tuple[AffineOp, ...]
    down: DenseOp
    roles: AxisRoles
    inside: tuple[Op, ...]
    unit_axes: tuple[int, ...]
    on_gate: tuple[AffineOp, ...] = ()

    @property
    def gated(self) -> bool:
        """Whether it is a gated unit."""
        return not self.inside

    @property
    def inner_roles(self) -> AxisRoles:
        """The labels of what the activation is given."""
        return self.before[-1].roles if self.before else self.up.roles

    @property
    def steps(self) -> tuple[AffineOp, ...]:
        """Every linear step, in order."""
        return self.before + self.on_gate + self.after


@dataclass(frozen=True)
class Rejection:
    """Why what leads to a Dense is no site.

    Attributes:
      ups: the Dense layers that lead to it.
      reason: what is in the way.
      sure: whether these Dense layers lead to nothing else, and nothing else to this one.
    """

    ups: tuple[DenseOp, ...]
    reason: Reason
    sure: bool = True


class Matcher:
    """Finds what leads to a Dense.

    Attributes:
      denses: the Dense layers of the program by the bare product.
      dependences: of all values.
    """

    def __init__(self, denses: Mapping[Value, DenseOp], dependences: Dependences):
        self.denses, self.dependences = denses, dependences
        self._slicer = Slicer(denses, dependences)

    def match(self, down: DenseOp) -> Match | Rejection | None:
        """Returns the site before a Dense, or why there is none; None where no Dense leads to it.

        That a product of data is between, as in attention, is no reason: nothing leads through it.
        """
        units = {axis: ("unit", i) for i, axis in enumerate(down.x_axes)}
        roles = tuple(units.get(axis, ("token", axis)) for axis in range(len(down.x.shape)))
        after, end, roles = steps_back(down.x, roles, self.dependences, self._slicer.dense_of)
        upstream = self._slicer.of(end, roles)
        around, mixed = self._slicer.upstream_denses(end)
        ups = upstream.denses + around if upstream.truncated else upstream.denses or around
        ups = tuple(dict.fromkeys(ups))
        if not ups:
            return None
        count = len({dense.product for dense in ups})
        reason = upstream.reason
        if not reason and len(upstream.denses) == 1:
            found = self._plain(upstream, after, end, roles, down)
            if isinstance(found, Match):
                return self._checked(found)
            reason = found
        gated = self._gated(after, end, roles, down)
        if isinstance(gated, Match):
            return self._checked(gated)
        if gated is not None:
            return gated
        if count == 1:
            reason = why_one_kernel(end, ups[0], self.dependences) or reason
            return Rejection(ups, reason or Reason(Cause.SUM), bool(upstream.denses) or not mixed)
        if reason or count > 2:
            return Rejection(ups, reason or Reason(Cause.SEVERAL), sure=False)
        return Rejection((ups[0],), Reason(Cause.TWO_DENSES))

    def _checked(self, found: Match) -> Match | Rejection:
        """Returns a match, unless it keeps something from training that would then train."""
        stopped = halted(found.steps, found.inside, found.start, found.end)
        return Rejection((found.up,), Reason(Cause.STOPPED)) if stopped else found

    def _plain(
        self,
        upstream: BackwardSlice,
        after: Sequence[AffineOp],
        end: Value,
        roles: AxisRoles,
        down: DenseOp,
    ) -> Match | Reason:
        """Returns the site whose activation is a function of one Dense, or why there is none."""
        up = upstream.denses[0]
        before, start, at_start = steps_on(up, set(upstream.ops), self.dependences)
        select_units = {step.op for step in before}
        inside = [op for op in upstream.ops if op not in select_units]
        if all(is_linear(op, self.dependences) for op in inside):
            return Reason(Cause.LINEAR)
        obstacles = [op for op in inside if not is_elementwise(op)]
        obstacles += [op for op in inside if op.outs[0].shape != start.shape]
        if obstacles:
            return Reason(Cause.NOT_BY_UNIT, op=obstacles[0].name)
        objection = unfolded(inside, start, end, at_start, self.dependences)
        if objection:
            return objection
        if after and normalised(after[0], start, self.dependences):
            inside, end, after = [*inside, after[0].op], after[0].out, after[1:]
        return self._make_match(up, before, start, at_start, end, after, roles, down, inside)

    def _gated(
        self, after: Sequence[AffineOp], end: Value, roles: AxisRoles, down: DenseOp
    ) -> Match | Rejection | None:
        """Returns the site that is a product of a gate and a Dense's own output.

        Or what is in the way of one; None where it is no such product.
        """
        op = end.maker
        if (
            not isinstance(op, Op)
            or op.name != "mul"
            or len(data_operands(op, self.dependences, roles)) < 2
        ):
            return None
        computed: Match | None = None
        objection: Rejection | None = None
        for gate, value in (op.ins, op.ins[::-1]):
            before, origin, at_origin = steps_back(
                value, roles, self.dependences, self._slicer.dense_of
            )
            up, upstream = self._slicer.dense_of.get(origin), self._slicer.of(gate, roles)
            if upstream.obstacles or len(upstream.denses) != 1:
                continue
            if up is None or origin is not up.out:
                op, ups = origin.maker, self._slicer.of(value, roles).denses
                if isinstance(op, Op) and differs_by_token(op, at_origin, self.dependences):
                    objection = Rejection(tuple(ups[:1]), Reason(Cause.BY_TOKEN, op=op.name))
                continue
            moved = with_roles(before, up.roles)
            if moved is None:
                continue
            at_start = moved[-1].roles if moved else up.roles
            found = self._make_match(up, moved, value, at_start, end, after, roles, down, ())
            if isinstance(found, Match):
                scales = scales_of(gate, roles, upstream, self.dependences, self._slicer.dense_of)
                found = replace(found, on_gate=tuple(with_roles(scales, at_start) or ()))
            if isinstance(found, Match) and up.leaf is not None:
                return found
            computed = found if isinstance(found, Match) else computed
        return computed or objection

    def _make_match(
        self,
        up: DenseOp,
        before: Sequence[AffineOp],
        start: Value,
        at_start: AxisRoles,
        end: Value,
        after: Sequence[AffineOp],
        at_end: AxisRoles,
        down: DenseOp,
        inside: Sequence[Op],
    ) -> Match | Reason:
        """Returns the match, once sure that all units of up, and nothing else, go into down."""
        ours = {role[1]: axis for axis, role in enumerate(at_start) if role and role[0] == "unit"}
        theirs = {axis: role[1] for axis, role in enumerate(at_end) if role and role[0] == "unit"}
        steps = with_roles(after, at_start)
        if set(ours.values()) != set(theirs) or len(ours) != len(up.kernel_out) or steps is None:
            return Reason(Cause.UNITS)
        unit_axes = tuple(theirs[ours[unit]] for unit in sorted(ours))
        roles = steps[-1].roles if steps else at_start
        steps = tuple(steps)
        return Match(up, tuple(before), start, end, steps, down, roles, tuple(inside), unit_axes)
