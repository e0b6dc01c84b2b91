"""The sites of a program: Dense → activation → Dense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lcjax.transform.analysis import reasons
from lcjax.transform.analysis.affine_ops import Step, data_operands, is_linear, relabelled
from lcjax.transform.analysis.axes import Labels
from lcjax.transform.analysis.dense import Dense
from lcjax.transform.analysis.dependence import Kinds
from lcjax.transform.ir.primitives import is_elementwise
from lcjax.transform.ir.program import Op, Value
from lcjax.transform.matching.backward_slice import Cone, Cones
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
      labels: of down's input, its tokens and units counted as up's output has them.
      inside: the operations of the activation; none of a gated unit, whose gate has more inputs.
      rows: for every unit axis of up, which axis of down's input it is, as they are counted there.
      on_gate: of a gated unit, the steps that scale its gate, which scale the value as well.
    """

    up: Dense
    before: tuple[Step, ...]
    start: Value
    end: Value
    after: tuple[Step, ...]
    down: Dense
    labels: Labels
    inside: tuple[Op, ...]
    rows: tuple[int, ...]
    on_gate: tuple[Step, ...] = ()

    @property
    def gated(self) -> bool:
        """Whether it is a gated unit."""
        return not self.inside

    @property
    def inner_labels(self) -> Labels:
        """The labels of what the activation is given."""
        return self.before[-1].labels if self.before else self.up.labels

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every linear step, in order."""
        return self.before + self.on_gate + self.after


@dataclass(frozen=True)
class Misfit:
    """Why what leads to a Dense is no site.

    Attributes:
      ups: the Dense layers that lead to it.
      reason: what is in the way.
      sure: whether these Dense layers lead to nothing else, and nothing else to this one.
    """

    ups: tuple[Dense, ...]
    reason: str
    sure: bool = True


class Matcher:
    """Finds what leads to a Dense.

    Attributes:
      denses: the Dense layers of the program by the bare product.
      kinds: of all values.
    """

    def __init__(self, denses: Mapping[Value, Dense], kinds: Kinds):
        self.denses, self.kinds = denses, kinds
        self._cones = Cones(denses, kinds)

    def match(self, down: Dense) -> Match | Misfit | None:
        """Returns the site before a Dense, or why there is none; None where no Dense leads to it.

        That a product of data is between, as in attention, is no reason: nothing leads through it.
        """
        units = {axis: ("unit", i) for i, axis in enumerate(down.x_axes)}
        labels = tuple(units.get(axis, ("token", axis)) for axis in range(len(down.x.shape)))
        after, end, labels = steps_back(down.x, labels, self.kinds, self._cones.dense_of)
        cone = self._cones.of(end, labels)
        around, mixed = self._cones.near(end)
        near = list(dict.fromkeys(cone.denses + around if cone.cut else cone.denses or around))
        if not near:
            return None
        count = len({dense.product for dense in near})
        reason = cone.reason
        if not reason and len(cone.denses) == 1:
            found = self._plain(cone, after, end, labels, down)
            if isinstance(found, Match):
                return self._checked(found)
            reason = found
        gated = self._gated(after, end, labels, down)
        if isinstance(gated, Match):
            return self._checked(gated)
        if gated is not None:
            return gated
        if count == 1:
            reason = why_one_kernel(end, near[0], self.kinds) or reason
            return Misfit(tuple(near), reason or reasons.SUM, bool(cone.denses) or not mixed)
        if reason or count > 2:
            return Misfit(tuple(near), reason or reasons.SEVERAL, sure=False)
        return Misfit((near[0],), reasons.TWO_DENSES)

    def _checked(self, found: Match) -> Match | Misfit:
        """Returns a match, unless it keeps something from training that would then train."""
        stopped = halted(found.steps, found.inside, found.start, found.end)
        return Misfit((found.up,), reasons.STOPPED) if stopped else found

    def _plain(
        self, cone: Cone, after: Sequence[Step], end: Value, labels: Labels, down: Dense
    ) -> Match | str:
        """Returns the site whose activation is a function of one Dense, or why there is none."""
        up = cone.denses[0]
        before, start, at_start = steps_on(up, set(cone.ops), self.kinds)
        taken = {step.op for step in before}
        inside = [op for op in cone.ops if op not in taken]
        if all(is_linear(op, self.kinds) for op in inside):
            return reasons.LINEAR
        odd = [op for op in inside if not is_elementwise(op)]
        odd += [op for op in inside if op.outs[0].shape != start.shape]
        if odd:
            return reasons.NOT_BY_UNIT.format(op=odd[0].name)
        objection = unfolded(inside, start, end, at_start, self.kinds)
        if objection:
            return objection
        if after and normalised(after[0], start, self.kinds):
            inside, end, after = [*inside, after[0].op], after[0].out, after[1:]
        return self._joined(up, before, start, at_start, end, after, labels, down, inside)

    def _gated(
        self, after: Sequence[Step], end: Value, labels: Labels, down: Dense
    ) -> Match | Misfit | None:
        """Returns the site that is a product of a gate and a Dense's own output.

        Or what is in the way of one; None where it is no such product.
        """
        op = end.maker
        if (
            not isinstance(op, Op)
            or op.name != "mul"
            or len(data_operands(op, self.kinds, labels)) < 2
        ):
            return None
        computed: Match | None = None
        objection: Misfit | None = None
        for gate, value in (op.ins, op.ins[::-1]):
            before, origin, at_origin = steps_back(value, labels, self.kinds, self._cones.dense_of)
            up, cone = self._cones.dense_of.get(origin), self._cones.of(gate, labels)
            if cone.odd or len(cone.denses) != 1:
                continue
            if up is None or origin is not up.out:
                op, ups = origin.maker, self._cones.of(value, labels).denses
                if isinstance(op, Op) and differs_by_token(op, at_origin, self.kinds):
                    objection = Misfit(tuple(ups[:1]), reasons.BY_TOKEN.format(op=op.name))
                continue
            moved = relabelled(before, up.labels)
            if moved is None:
                continue
            at_start = moved[-1].labels if moved else up.labels
            found = self._joined(up, moved, value, at_start, end, after, labels, down, ())
            if isinstance(found, Match):
                scales = scales_of(gate, labels, cone, self.kinds, self._cones.dense_of)
                found = replace(found, on_gate=tuple(relabelled(scales, at_start) or ()))
            if isinstance(found, Match) and up.leaf is not None:
                return found
            computed = found if isinstance(found, Match) else computed
        return computed or objection

    def _joined(
        self,
        up: Dense,
        before: Sequence[Step],
        start: Value,
        at_start: Labels,
        end: Value,
        after: Sequence[Step],
        at_end: Labels,
        down: Dense,
        inside: Sequence[Op],
    ) -> Match | str:
        """Returns the match, once sure that all units of up, and nothing else, go into down."""
        ours = {
            label[1]: axis for axis, label in enumerate(at_start) if label and label[0] == "unit"
        }
        theirs = {
            axis: label[1] for axis, label in enumerate(at_end) if label and label[0] == "unit"
        }
        steps = relabelled(after, at_start)
        if set(ours.values()) != set(theirs) or len(ours) != len(up.kernel_out) or steps is None:
            return reasons.UNITS
        rows = tuple(theirs[ours[unit]] for unit in sorted(ours))
        labels = steps[-1].labels if steps else at_start
        steps = tuple(steps)
        return Match(up, tuple(before), start, end, steps, down, labels, tuple(inside), rows)
