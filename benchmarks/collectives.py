"""What devices send each other in a compiled program, read from its HLO."""

import math
import re
from typing import Any

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_FORM = r"\S+|\((?:[^()]|\([^()]*\))*\)"  # of an array, or of several in parentheses
_CALL = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = ({_FORM}) ({_KINDS})(?:-done)?\(", re.MULTILINE)
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, dict[str, Any]]:
    """Returns, by kind, how many collectives a program has, and the bytes of what comes out.

    An asynchronous one is told once, where it is done. One in a loop is told once too.

    Args:
      text: of the HLO, such as `compiled.as_text()`: what one device does.
    """
    found: dict[str, dict[str, Any]] = {}
    for form, kind in _CALL.findall(text):
        kept = found.setdefault(kind, {"count": 0, "bytes": 0})
        kept["count"] += 1
        kept["bytes"] += sum(_bytes(*array) for array in _ARRAY.findall(form))
    return found


def _bytes(dtype: str, shape: str) -> int:
    width = re.search(r"\d+", dtype)
    bits = int(width[0]) if width else 8  # pred
    return -(-bits * math.prod(map(int, filter(None, shape.split(",")))) // 8)
