"""What the time of a compiled program goes to, read from a trace of XLA's CPU backend."""

import collections
import gzip
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

# In order: an operation is of the first kind that fits.
KINDS = ("matrix products", "activations", "attention", "norms", "copies", "optimizer", "rest")


def shares(compiled: Any, given: tuple[Any, ...], *, calls: int = 3) -> dict[str, float]:
    """Returns which part of the time of a program's operations each kind takes, 0 to 1.

    Args:
      compiled: the program; of one CPU device.
      given: what it takes.
      calls: that are traced.

    Raises:
      RuntimeError: when the trace has none of its operations, as on other devices.
    """
    kinds = kinds_of(compiled.as_text())
    jax.block_until_ready(compiled(*given))
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(calls):
                jax.block_until_ready(compiled(*given))
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


def kinds_of(program: str) -> Mapping[str, str]:
    """Returns the kind of every operation of a compiled program's text, by its name."""
    found = {}
    for line in program.splitlines():
        defined = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)
        if defined:
            told = re.search(r'op_name="([^"]*)"', line)
            found[defined[1]] = _kind(defined[1], told[1] if told else "")
    return found


def _kind(name: str, made_by: str) -> str:
    """Returns the kind of an operation, by its name and the path of what it was made of."""
    last = made_by.rsplit("/", 1)[-1]
    if last == "dot_general" or name.startswith("dot"):
        return "matrix products"
    if "/act" in made_by:
        return "activations"
    if "/attention" in made_by:
        return "attention"
    if "/norm" in made_by:
        return "norms"
    if re.match(r"(wrapped_)?(copy|transpose)", name) or last == "transpose":
        return "copies"
    return "rest" if "jvp(" in made_by or "jit(logits)" in made_by else "optimizer"
