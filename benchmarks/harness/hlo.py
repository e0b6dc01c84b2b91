"""Compiled programs: their collectives, and how their time is spread over kinds of operations."""

import collections
import dataclasses
import gzip
import json
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

KINDS = ("matrix products", "activations", "attention", "norms", "copies", "optimizer", "rest")
_COLLECTIVES = (
    "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
)
_TYPE = r"\S+|\((?:[^()]|\([^()]*\))*\)"  # of one array, or of several in parentheses
_CALL = re.compile(
    rf"^\s*(?:ROOT )?%?[\w.-]+ = ({_TYPE}) ({_COLLECTIVES})(?:-done)?\(", re.MULTILINE
)
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A compiled program with its inputs.

    Attributes:
      text: HLO.
      flops: of one call, by XLA's count.
      call: runs it once; a training step continues from the state of the call before.
    """

    text: str
    flops: float
    call: Callable[[], Any]


def collectives(text: str) -> dict[str, dict[str, Any]]:
    """Returns, by kind, the number of collectives in a program and the bytes of their outputs.

    An asynchronous collective counts once, at its end; one inside a loop counts once.

    Args:
      text: HLO of one device, such as `compiled.as_text()`.
    """
    found: dict[str, dict[str, Any]] = {}
    for form, kind in _CALL.findall(text):
        total = found.setdefault(kind, {"count": 0, "bytes": 0})
        total["count"] += 1
        total["bytes"] += sum(array_bytes(*array) for array in arrays_in(form))
    return found


def time_shares(program: CompiledProgram, *, calls: int = 3) -> dict[str, float]:
    """Returns the share of each kind in the time of a program's operations, 0 to 1.

    Args:
      program: on one CPU device.
      calls: traced.

    Raises:
      RuntimeError: when the trace has none of its operations, as on other devices.
    """
    kinds = operation_kinds(program.text)
    jax.block_until_ready(program.call())
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(calls):
                jax.block_until_ready(program.call())
        (path,) = Path(directory).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    spent: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and event["name"] in kinds:
            spent[kinds[event["name"]]] += event["dur"]
    total = sum(spent.values())
    if not total:
        raise RuntimeError(
            "the trace has none of the program's operations; expected a program of a CPU device."
        )
    return {kind: spent[kind] / total for kind in KINDS}


def operation_kinds(text: str) -> Mapping[str, str]:
    """Returns the kind of every operation of a compiled program's text, by its name."""
    found = {}
    for line in text.splitlines():
        defined = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)
        if defined:
            metadata = re.search(r'op_name="([^"]*)"', line)
            found[defined[1]] = _kind(defined[1], metadata[1] if metadata else "")
    return found


def _kind(name: str, origin: str) -> str:
    """Returns the kind of an operation.

    Args:
      name: of the operation; a copy is recognised by it, whatever it copies.
      origin: path of modules and primitive that the operation, or the last fused one, came from.
    """
    if re.match(r"(wrapped_)?(copy|transpose)", name):
        return "copies"
    if origin.endswith("/dot_general"):
        return "matrix products"
    for part, kind in (
        ("/act", "activations"),
        ("/attention", "attention"),
        ("/norm", "norms"),
        ("/optimizer", "optimizer"),
    ):
        if part in origin:
            return kind
    return "rest"


def arrays_in(text: str) -> list[tuple[str, list[int]]]:
    """Returns the dtype, by HLO's name, and the shape of every array that a text of HLO names."""
    return [
        (dtype, [int(size) for size in shape.split(",") if size])
        for dtype, shape in _ARRAY.findall(text)
    ]


def array_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Returns the bytes of an array, given HLO's name of its dtype."""
    width = re.search(r"\d+", dtype)
    bits = int(width[0]) if width else 8  # pred
    return -(-bits * math.prod(shape) // 8)
