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
from lcjax.transform.matching.stepping import AffinePath, affine_ops_after, affine_ops_before
from lcjax.transform.matching.straight_path import differs_by_token, halted, normalised, unfolded


@dataclass(frozen=True, eq=False, repr=False)
class Match:
    """An activation between two Dense layers.

    Attributes:
      up: the Dense before; of a gated unit the one of the value.
      before: affine operations from up's output to the activation's input.
      start: the activation's input; of a gated unit the value.
      end: its output; of a gated unit the product of gate and value.
      after: affine operations from there to the input of the Dense after.
      down: the Dense after.
      roles: of the axes of down's input, tokens and units counted as in up's output.
      inside: the operations of the activation; empty for a gated unit, whose gate has more inputs.
      unit_axes: for every unit axis of up, the number of the unit axis of down's input that it is.
      on_gate: of a gated unit, the scaling of its gate, which scales the value too.
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
        """The roles of the axes of the activation's input."""
        return self.before[-1].roles if self.before else self.up.roles

    @property
    def steps(self) -> tuple[AffineOp, ...]:
        """Every affine operation, in order."""
        return self.before + self.on_gate + self.after


@dataclass(frozen=True)
class Rejection:
    """Why the layers before a Dense do not make a site with it.

    Attributes:
      ups: the Dense layers before it.
      reason: the reason.
      sure: whether these Dense layers feed only this one, and only they feed it.
    """

    ups: tuple[DenseOp, ...]
    reason: Reason
    sure: bool = True


class Matcher:
    """Finds the site before a Dense.

    Attributes:
      denses: the Dense layers of the program by the bare product.
      dependences: of all values.
    """

    def __init__(self, denses: Mapping[Value, DenseOp], dependences: Dependences):
        self.denses, self.dependences = denses, dependences
        self._slicer = Slicer(denses, dependences)

    def match(self, down: DenseOp) -> Match | Rejection | None:
        """Returns the site before a Dense, or why there is none; None if no Dense feeds it.

        Products of data between them, as in attention, are not a reason: nothing passes through.
        """
        known = {axis: ("unit", i) for i, axis in enumerate(down.x_axes)}
        known |= {axis: ("expert", i) for i, axis in enumerate(down.x_experts)}
        roles = tuple(known.get(axis, ("token", axis)) for axis in range(len(down.x.shape)))
        after = affine_ops_before(down.x, roles, self.dependences, self._slicer.dense_of)
        upstream = self._slicer.of(after.end, after.roles)
        around, mixed = self._slicer.upstream_denses(after.end)
        ups = upstream.denses + around if upstream.truncated else upstream.denses or around
        ups = tuple(dict.fromkeys(ups))
        if not ups:
            return None
        count = len({dense.product for dense in ups})
        reason = upstream.reason
        if not reason and len(upstream.denses) == 1:
            found = self._plain(upstream, after, down)
            if isinstance(found, Match):
                return self._checked(found)
            reason = found
        gated = self._gated(after, down)
        if isinstance(gated, Match):
            return self._checked(gated)
        if gated is not None:
            return gated
        if count == 1:
            last = [after.end.maker] if isinstance(after.end.maker, Op) else []
            between = [*last, *upstream.ops]
            reason = why_one_kernel(between, ups[0], self.dependences) or reason
            return Rejection(ups, reason or Reason(Cause.SUM), bool(upstream.denses) or not mixed)
        if reason or count > 2:
            return Rejection(ups, reason or Reason(Cause.SEVERAL), sure=False)
        return Rejection((ups[0],), Reason(Cause.TWO_DENSES))

    def _checked(self, found: Match) -> Match | Rejection:
        """Returns a match, unless it stops gradients, so that fusing would train more."""
        stopped = halted(found.steps, found.inside, found.start, found.end)
        return Rejection((found.up,), Reason(Cause.STOPPED)) if stopped else found

    def _plain(self, upstream: BackwardSlice, after: AffinePath, down: DenseOp) -> Match | Reason:
        """Returns the site whose activation is a function of one Dense, or why there is none."""
        up = upstream.denses[0]
        before = affine_ops_after(up, set(upstream.ops), self.dependences)
        outside = {step.op for step in before.ops}
        inside = [op for op in upstream.ops if op not in outside]
        if all(is_linear(op, self.dependences) for op in inside):
            return Reason(Cause.LINEAR)
        obstacles = [op for op in inside if not is_elementwise(op)]
        obstacles += [op for op in inside if op.outs[0].shape != before.end.shape]
        if obstacles:
            return Reason(Cause.NOT_BY_UNIT, op=obstacles[0].name)
        objection = unfolded(inside, before.end, after.end, before.roles, self.dependences)
        if objection:
            return objection
        if after.ops and normalised(after.ops[0], before.end, self.dependences):
            first, *rest = after.ops
            inside, after = [*inside, first.op], AffinePath(rest, first.out, after.roles)
        return _make_match(up, before, after, down, inside)

    def _gated(self, after: AffinePath, down: DenseOp) -> Match | Rejection | None:
        """Returns the site that is a product of a gate and the output of a Dense.

        Or why there is none; None if it is not such a product.
        """
        op, roles, dense_of = after.end.maker, after.roles, self._slicer.dense_of
        if not isinstance(op, Op) or op.name != "mul":
            return None
        if len(data_operands(op, self.dependences, roles)) < 2:
            return None
        computed: Match | None = None
        objection: Rejection | None = None
        for gate, value in (op.ins, op.ins[::-1]):
            before = affine_ops_before(value, roles, self.dependences, dense_of)
            up, upstream = dense_of.get(before.end), self._slicer.of(gate, roles)
            if upstream.obstacles or len(upstream.denses) != 1:
                continue
            if up is None or before.end is not up.out:
                maker, ups = before.end.maker, self._slicer.of(value, roles).denses
                if isinstance(maker, Op) and differs_by_token(
                    maker, before.roles, self.dependences
                ):
                    objection = Rejection(tuple(ups[:1]), Reason(Cause.BY_TOKEN, op=maker.name))
                continue
            moved = with_roles(before.ops, up.roles)
            if moved is None:
                continue
            before = AffinePath(moved, value, moved[-1].roles if moved else up.roles)
            found = _make_match(up, before, after, down, ())
            if isinstance(found, Match):
                scales = scales_of(gate, roles, upstream, self.dependences, dense_of)
                found = replace(found, on_gate=tuple(with_roles(scales, before.roles) or ()))
            if isinstance(found, Match) and up.leaf is not None:
                return found
            computed = found if isinstance(found, Match) else computed
        return computed or objection


def _make_match(
    up: DenseOp, before: AffinePath, after: AffinePath, down: DenseOp, inside: Sequence[Op]
) -> Match | Reason:
    """Returns the match, once all units of up, and nothing else, are known to go into down."""
    ours = {role[1]: axis for axis, role in enumerate(before.roles) if role and role[0] == "unit"}
    theirs = {axis: role[1] for axis, role in enumerate(after.roles) if role and role[0] == "unit"}
    steps = with_roles(after.ops, before.roles)
    experts = [
        {axis: role for axis, role in enumerate(roles) if role and role[0] == "expert"}
        for roles in (before.roles, after.roles)
    ]
    counts = {len(experts[0]), len(up.kernel_experts), len(down.kernel_experts)}
    if experts[0] != experts[1] or len(counts) > 1:
        return Reason(Cause.BATCHED)
    # Axes of up that are not among ours have one element, perhaps since a slice took it.
    if set(ours.values()) != set(theirs) or steps is None:
        return Reason(Cause.UNITS)
    return Match(
        up=up,
        before=tuple(before.ops),
        start=before.end,
        end=after.end,
        after=tuple(steps),
        down=down,
        roles=steps[-1].roles if steps else before.roles,
        inside=tuple(inside),
        unit_axes=tuple(theirs[ours[unit]] for unit in sorted(ours)),
    )
