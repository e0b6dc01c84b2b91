"""Dependence of values on constants, params, random numbers, or the inputs."""

from collections.abc import Iterable, Mapping
from enum import IntEnum

from lcjax.transform.ir.primitives import (
    ACROSS_DEVICES,
    PASSTHROUGH,
    RANDOM,
    REDUCTIONS,
    RESHAPES,
    is_elementwise,
)
from lcjax.transform.ir.program import Op, Program, Region, Value, sources


class Dependence(IntEnum):
    """What a value depends on; of several, the last in this order."""

    CONSTANT = 0
    PARAM = 1
    RANDOM = 2
    DATA = 3


Dependences = Mapping[Value, Dependence]


class _Dependences(dict[Value, Dependence]):
    """Dependence by value; a value that no operation made is a constant."""

    def __missing__(self, value: Value) -> Dependence:
        return Dependence.CONSTANT


def find_dependences(program: Program) -> Dependences:
    """Returns the kind of every value of a program."""
    dependences = _Dependences(dict.fromkeys(program.leaves, Dependence.PARAM))
    dependences.update(dict.fromkeys(program.inputs, Dependence.DATA))
    dependences.update(dict.fromkeys(program.state, Dependence.PARAM))
    _visit(program.body, dependences)
    return dependences


def _visit(body: list[Op | Region], dependences: _Dependences):
    for item in body:
        if isinstance(item, Op):
            kind = max((dependences[value] for value in item.ins), default=Dependence.CONSTANT)
            kind = Dependence.RANDOM if item.name in RANDOM else kind
            dependences.update(dict.fromkeys(item.outs, kind))
        elif item.kind == "scan":
            dependences.update(dict.fromkeys([*item.carried, *item.outs], Dependence.DATA))
            dependences.update(
                {layer: dependences[outside] for layer, outside in item.layers.items()}
            )
            _visit(item.body, dependences)
        elif item.kind == "while":
            dependences.update(dict.fromkeys([*item.carried, *item.outs], Dependence.DATA))
            _visit(item.body, dependences)
        else:
            _visit(item.body, dependences)
        if isinstance(item, Region) and item.kind == "cond":
            for out, origins in sources(item).items():
                dependences[out] = max(dependences[value] for value in origins)


def data_in(values: Iterable[Value], dependences: Dependences) -> list[Value]:
    """Returns those of some values that depend on the inputs."""
    return [value for value in values if dependences[value] is Dependence.DATA]


def known_given_params(kind: Dependence) -> bool:
    """Returns whether a value of this dependence is known once the params are."""
    return kind <= Dependence.PARAM


def varying_axes(value: Value) -> frozenset[int]:
    """Returns the axes along which a value may differ: one that was spread does not."""
    return _varying(value, {})


def _varying(value: Value, known: dict[Value, frozenset[int]]) -> frozenset[int]:
    if value in known:
        return known[value]
    axes = frozenset(axis for axis, size in enumerate(value.shape) if size != 1)
    op = value.maker
    if axes and isinstance(op, Op):
        if op.name == "broadcast_in_dim":
            dims = op.eqn.params["broadcast_dimensions"]
            axes &= frozenset(int(dims[axis]) for axis in _varying(op.ins[0], known))
        elif op.name == "transpose":
            inner = _varying(op.ins[0], known)
            permutation = enumerate(op.eqn.params["permutation"])
            axes = frozenset(i for i, axis in permutation if axis in inner)
        elif is_elementwise(op):
            own = [operand for operand in op.ins if len(operand.shape) == len(value.shape)]
            axes &= frozenset().union(*(_varying(operand, known) for operand in own))
    known[value] = axes
    return axes


def is_statistic(value: Value, dependences: Dependences, tokens: frozenset[int], rank: int) -> bool:
    """Returns whether a value is a statistic of the batch, the same for all tokens.

    Args:
      value: any; one that does not depend on the inputs is not a statistic.
      dependences: of all values.
      tokens: which axes of the value that it is joined with are those of tokens.
      rank: how many axes that value has.
    """
    if dependences[value] is not Dependence.DATA:
        return False
    todo, seen = [value], {value}
    for each in todo:  # grows; nearest first, which usually decides early
        op = each.maker
        if not isinstance(op, Op):
            return False
        if op.name in REDUCTIONS:
            (operand,) = op.ins
            axes = frozenset(op.eqn.params["axes"])
            if op.name != "reduce_sum" or len(operand.shape) != rank or axes != tokens:
                return False
            if _divides(op.outs[0]):  # a softmax
                return False
        elif is_elementwise(op) or op.name in ACROSS_DEVICES | RESHAPES:
            data = data_in(op.ins, dependences)
            todo += [operand for operand in dict.fromkeys(data) if operand not in seen]
            seen.update(data)
        else:
            return False
    return True


def _divides(value: Value) -> bool:
    """Returns whether a sum divides something, as in a softmax, rather than a mean."""
    while len(value.users) == 1:
        (op,) = value.users
        if not isinstance(op, Op):
            return False
        if op.name == "div":
            return op.ins[1] is value
        if op.name not in PASSTHROUGH | RESHAPES | ACROSS_DEVICES:
            return False
        value = op.outs[0]
    return False
