"""Bytes, FLOPs and elements of the operations of a compiled program, from its text."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

from benchmarks.harness.hlo import array_bytes, arrays_in, operation_kinds

_DEFINED = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([\w-]+)\((.*)$")
_BEGIN = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
# Of no work: they name data that are there.
_NAMES = frozenset({"parameter", "constant", "bitcast", "tuple", "get-tuple-element"})


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation that the program runs, a fusion being one.

    Attributes:
      name: in the program.
      kind: of `benchmarks.harness.hlo.KINDS`.
      bytes: of its operands, each once, and of its result.
      flops: of the matrix products in it; others are not counted.
      elements: of its result.
    """

    name: str
    kind: str
    bytes: int
    flops: int
    elements: int


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    shapes: list[tuple[str, list[int]]]
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return list(dict.fromkeys(re.findall(r"%([\w.-]+)", self.rest.partition(")")[0])))

    @property
    def bytes(self) -> int:
        return sum(array_bytes(dtype, dims) for dtype, dims in self.shapes)


def operations(text: str) -> list[Operation]:
    """Returns the operations that a program runs outside of loops, in order.

    Args:
      text: HLO after compilation.
    """
    entry, computations = _computations(text)
    kinds = operation_kinds(text)
    lines = computations[entry]
    return [
        Operation(
            line.name,
            kinds[line.name],
            line.bytes + sum(lines[each].bytes for each in line.operands if each in lines),
            _flops(line, lines, computations),
            sum(math.prod(dims) for _, dims in line.shapes),
        )
        for line in lines.values()
        if line.opcode not in _NAMES
    ]


def _computations(text: str) -> tuple[str, dict[str, dict[str, _Line]]]:
    """Returns the name of the entry, and the lines of every computation by their names."""
    entry, current = "", ""
    found: dict[str, dict[str, _Line]] = collections.defaultdict(dict)
    for line in text.splitlines():
        if begin := _BEGIN.match(line):
            current = begin[2]
            entry = current if begin[1] else entry
        elif current and (defined := _DEFINED.match(line)):
            name, result, opcode, rest = defined.groups()
            found[current][name] = _Line(name, arrays_in(result), opcode, rest)
    return entry, found


def _flops(
    line: _Line, lines: Mapping[str, _Line], computations: Mapping[str, Mapping[str, _Line]]
) -> int:
    """Returns the FLOPs of a matrix product, or of those in what an operation calls."""
    if line.opcode == "dot":
        (_, left), (_, out) = lines[line.operands[0]].shapes[0], line.shapes[0]
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
        contracted = [left[int(axis)] for axis in axes[1].split(",") if axis] if axes else []
        return 2 * math.prod(out) * math.prod(contracted)
    called = re.findall(r"(?:calls|to_apply)=%?([\w.-]+)", line.rest)
    inner = [(each, computations[name]) for name in called for each in computations[name].values()]
    return sum(_flops(each, there, computations) for each, there in inner)
