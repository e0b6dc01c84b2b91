"""What the time of a compiled program goes to, read from a trace of XLA's CPU backend."""

import collections
import gzip
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax

from benchmarks.preset_steps import Program

KINDS = ("matrix products", "activations", "attention", "norms", "copies", "optimizer", "rest")


def shares(program: Program, *, calls: int = 3) -> dict[str, float]:
    """Returns which part of the time of a program's operations each kind takes, 0 to 1.

    Args:
      program: of one CPU device.
      calls: that are traced.

    Raises:
      RuntimeError: when the trace has none of its operations, as on other devices.
    """
    kinds = kinds_of(program.text)
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
        raise RuntimeError("the trace names none of the program's operations; wanted a CPU device.")
    return {kind: spent[kind] / total for kind in KINDS}


def kinds_of(text: str) -> Mapping[str, str]:
    """Returns the kind of every operation of a compiled program's text, by its name."""
    found = {}
    for line in text.splitlines():
        defined = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)
        if defined:
            told = re.search(r'op_name="([^"]*)"', line)
            found[defined[1]] = _kind(defined[1], told[1] if told else "")
    return found


def _kind(name: str, made_by: str) -> str:
    """Returns the kind of an operation.

    Args:
      name: its own; that of a copy says so, whatever it copies.
      made_by: path of modules and of the primitive that it, or the last of those fused, came from.
    """
    if re.match(r"(wrapped_)?(copy|transpose)", name):
        return "copies"
    if made_by.endswith("/dot_general"):
        return "matrix products"
    for part, kind in (
        ("/act", "activations"),
        ("/attention", "attention"),
        ("/norm", "norms"),
        ("/optimizer", "optimizer"),
    ):
        if part in made_by:
            return kind
    return "rest"
