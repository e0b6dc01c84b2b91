"""What the axes of a value hold, followed through a program: tokens, or units of a Dense."""

from lcjax.transform.analysis.dependence import axes_varied
from lcjax.transform.ir.primitives import MOVES
from lcjax.transform.ir.program import Op, Value

# ("token", i), ("unit", j), or None for an axis of size 1 that says nothing.
Label = tuple[str, int] | None
Labels = tuple[Label, ...]


def axes_of(labels: Labels, kind: str) -> frozenset[int]:
    """Returns the axes that hold tokens, or those that hold units."""
    return frozenset(axis for axis, label in enumerate(labels) if label and label[0] == kind)


def moved_labels(op: Op, labels: Labels) -> Labels | None:
    """Returns the labels after an operation that moves axes about; None where they get lost."""
    if op.name == "transpose":
        return tuple(labels[axis] for axis in op.eqn.params["permutation"])
    return _kept(op.ins[0], op.outs[0], labels) if op.name in MOVES else labels


def labels_before(op: Op, value: Value, labels: Labels) -> Labels | None:
    """Returns the labels of an operand, given those of the result; None where they get lost."""
    if op.name == "transpose":
        permutation = list(op.eqn.params["permutation"])
        return tuple(labels[permutation.index(axis)] for axis in range(len(permutation)))
    return _kept(op.outs[0], value, labels) if op.name in MOVES else labels


def varies_by_unit(value: Value, labels: Labels) -> bool:
    """Tells whether a value is the same for every token; it has the labels' axes, or none."""
    if not value.shape:
        return True
    return len(value.shape) == len(labels) and axes_varied(value) <= axes_of(labels, "unit")


def _kept(a: Value, b: Value, labels: Labels) -> Labels | None:
    """Returns b's labels, given a's, where both have the same axes but for those of size 1."""
    held = [(size, label) for size, label in zip(a.shape, labels, strict=True) if size != 1]
    if [size for size, _ in held] != [size for size in b.shape if size != 1]:
        return None
    labels_held = iter([label for _, label in held])
    return tuple(next(labels_held) if size != 1 else None for size in b.shape)
