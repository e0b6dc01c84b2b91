"""The sites of a program: Dense → activation → Dense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lcjax.transform.cone import Cone, Cones
from lcjax.transform.dense import Dense
from lcjax.transform.kinds import Kind, Kinds
from lcjax.transform.labels import Labels, labels_before, moved_labels
from lcjax.transform.primitives import hands_on, is_elementwise
from lcjax.transform.program import Op, Value
from lcjax.transform.steps import (
    AFFINE,
    Step,
    data_operands,
    is_mask,
    read_mask_scale,
    read_step,
    relabelled,
)


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
        return self.before + self.after


@dataclass(frozen=True)
class Misfit:
    """Why what stands before a Dense is no site.

    Attributes:
      up: the Dense before it.
      reason: what stands in the way.
    """

    up: Dense
    reason: str


class Matcher:
    """Finds what stands before a Dense.

    Attributes:
      denses: the Dense layers of the program by the bare product.
      kinds: of all values.
    """

    def __init__(self, denses: Mapping[Value, Dense], kinds: Kinds):
        self.denses, self.kinds = denses, kinds
        self._cones = Cones(denses, kinds)

    def match(self, down: Dense) -> Match | Misfit | None:
        """Returns the site before a Dense, or why there is none; None where no Dense is near."""
        units = {axis: ("unit", i) for i, axis in enumerate(down.x_axes)}
        labels = tuple(units.get(axis, ("token", axis)) for axis in range(len(down.x.shape)))
        after, end, labels = self._steps_back(down.x, labels)
        cone = self._cones.of(end, labels)
        near = cone.denses or self._cones.near(end)
        if len({dense.product for dense in near}) not in (1, 2):
            return None
        reason = cone.reason
        if not reason and len(cone.denses) == 1:
            found = self._plain(cone, after, end, labels, down)
            if not isinstance(found, str):
                return found
            reason = found
        gated = self._gated(after, end, labels, down)
        if gated is not None:
            return gated
        if not reason:
            reason = "it depends on the outputs of two Dense layers and is not value times gate"
        elif len({dense.product for dense in near}) == 2:
            return None
        return Misfit(near[0], reason)

    def _plain(
        self, cone: Cone, after: list[Step], end: Value, labels: Labels, down: Dense
    ) -> "Match | str":
        """Returns the site whose activation is a function of one Dense, or why there is none."""
        up = cone.denses[0]
        before, start, at_start = self._steps_on(up, set(cone.ops))
        taken = {step.op for step in before}
        inside = [op for op in cone.ops if op not in taken]
        if all(map(self._is_linear, inside)):
            return "nothing but linear steps stands between, so there is no activation to bend"
        for op in inside:
            if op.outs[0].shape != start.shape or not is_elementwise(op):
                return f"`{op.name}` stands between, which does not work on every unit alone"
        return self._joined(up, before, start, at_start, end, after, labels, down, inside)

    def _is_linear(self, op: Op) -> bool:
        """Tells whether an operation adds or multiplies by what does not depend on the data."""
        data = [value for value in op.ins if self.kinds[value] is Kind.DATA]
        divides = op.name == "div" and self.kinds[op.ins[1]] is Kind.DATA
        return hands_on(op) or (op.name in AFFINE and len(data) == 1 and not divides)

    def _gated(self, after: list[Step], end: Value, labels: Labels, down: Dense) -> Match | None:
        """Returns the site that is a product of a gate and a Dense's own output."""
        op = end.maker
        if (
            not isinstance(op, Op)
            or op.name != "mul"
            or len(data_operands(op, self.kinds, labels)) < 2
        ):
            return None
        computed = None
        for gate, value in (op.ins, op.ins[::-1]):
            before, origin, _ = self._steps_back(value, labels)
            up, cone = self._cones.dense_of.get(origin), self._cones.of(gate, labels)
            if up is None or origin is not up.out or cone.odd or len(cone.denses) != 1:
                continue
            moved = relabelled(before, up.labels)
            if moved is None:
                continue
            at_start = moved[-1].labels if moved else up.labels
            found = self._joined(up, moved, value, at_start, end, after, labels, down, ())
            if isinstance(found, Match) and up.leaf is not None:
                return found
            computed = found if isinstance(found, Match) else computed
        return computed

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
    ) -> "Match | str":
        """Returns the match, once sure that all units of up, and nothing else, go into down."""
        ours = {
            label[1]: axis for axis, label in enumerate(at_start) if label and label[0] == "unit"
        }
        theirs = {
            axis: label[1] for axis, label in enumerate(at_end) if label and label[0] == "unit"
        }
        steps = relabelled(after, at_start)
        if set(ours.values()) != set(theirs) or len(ours) != len(up.kernel_out) or steps is None:
            return "the Dense after it does not sum over the units of the one before, or over more"
        rows = tuple(theirs[ours[unit]] for unit in sorted(ours))
        labels = steps[-1].labels if steps else at_start
        steps = tuple(steps)
        return Match(up, tuple(before), start, end, steps, down, labels, tuple(inside), rows)

    def _steps_back(self, value: Value, labels: Labels) -> tuple[list[Step], Value, Labels]:
        """Returns the linear steps that lead to a value, in order, and what they start from."""
        steps: list[Step] = []
        while True:
            step = self._step_back(value, labels, steps[0] if steps else None)
            earlier = labels_before(step.op, step.value, labels) if step else None
            if step is None or earlier is None:
                return steps, value, labels
            steps.insert(0, step)
            value, labels = step.value, earlier

    def _step_back(self, out: Value, labels: Labels, later: Step | None) -> Step | None:
        op = out.maker
        if not isinstance(op, Op) or out in self._cones.dense_of:
            return None
        operands = data_operands(op, self.kinds, labels)
        if len(operands) != 1:
            return None
        (value,) = operands
        step = read_step(op, value, labels, self.kinds, out)
        if step is not None:
            return step
        scale = read_mask_scale(op, value, labels, self.kinds)
        if scale is None or (later is not None and is_mask(later, self.kinds)):
            return scale
        earlier = value.maker
        if isinstance(earlier, Op) and len(data_operands(earlier, self.kinds, labels)) == 1:
            (origin,) = data_operands(earlier, self.kinds, labels)
            mask = read_step(earlier, origin, labels, self.kinds, value)
            return scale if mask is not None and is_mask(mask, self.kinds) else None
        return None

    def _steps_on(self, up: Dense, cone: set[Op]) -> tuple[list[Step], Value, Labels]:
        """Returns the linear steps that lead on from a Dense, where they end, and the labels."""
        steps: list[Step] = []
        value, labels = up.out, up.labels
        while True:
            step = self._step_on(value, labels, cone, steps[-1] if steps else None)
            if step is None:
                return steps, value, labels
            steps.append(step)
            value, labels = step.out, step.labels

    def _step_on(
        self, value: Value, labels: Labels, cone: set[Op], earlier: Step | None
    ) -> Step | None:
        users = [user for user in value.users if isinstance(user, Op) and user in cone]
        if len(users) != 1:
            return None
        (op,) = users
        moved, out = moved_labels(op, labels), next(out for out in op.outs if out.users)
        if moved is None or len([out for out in op.outs if out.users]) != 1:
            return None
        step = read_step(op, value, moved, self.kinds, out)
        if step is not None:
            return step
        scale = read_mask_scale(op, value, moved, self.kinds)
        if scale is None or (earlier is not None and is_mask(earlier, self.kinds)):
            return scale
        (later, *more) = [user for user in out.users if isinstance(user, Op)] or [None]
        if later is None or more:
            return None
        mask = read_step(later, out, moved, self.kinds, later.outs[0])
        return scale if mask is not None and is_mask(mask, self.kinds) else None
