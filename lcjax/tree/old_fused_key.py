"""Keys of `fused` as earlier versions wrote them: `up|hidden=8|units=2|folder|leaf:4x8,...`."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from lcjax.tree.encoding import strip_box_suffix


class OldKey(NamedTuple):
    """The contents of an old key: the fields of `FusedKey`."""

    sites: tuple[str, ...]
    widths: tuple[int, ...]
    removed: dict[str, tuple[tuple[int, ...], str | None]]
    units: tuple[int | None, ...]


def is_old(key: str) -> bool:
    """Returns whether this is such a key."""
    return "|hidden=" in key


def parse_old(key: str) -> OldKey:
    """Returns the contents of an old key.

    Raises:
      ValueError: another key.
    """
    sites, widths, *units, prefix, leaves = key.split("|")
    removed = {}
    for leaf in leaves.split(","):
        name, shape, *dtype = leaf.split(":")
        sizes = tuple(int(size) for size in shape.split("x") if size)
        path = _encoded(f"{prefix}/{name}" if prefix else name)
        removed[path] = (sizes, dtype[0] if dtype else None)
    numbers = tuple(int(width) for width in widths.removeprefix("hidden=").split("+"))
    paths = tuple(unquote(site) for site in sites.split("+"))
    return OldKey(paths, numbers, removed, _counts(units, len(paths)))


def _encoded(path: str) -> str:
    """Returns a path in which attributes were `@name` as `lcjax.tree.encoding` writes it."""
    names = [f"%2E{name[1:]}" if name.startswith(".") else name for name in path.split("/")]
    names = [f".{name[1:]}" if name.startswith("@") else name for name in names]
    return strip_box_suffix("/".join(names))


def _counts(parts: Sequence[str], sites: int) -> tuple[int | None, ...]:
    """Returns the units of a key from its part `units=...`, if it has one.

    Raises:
      ValueError: other parts.
    """
    if not parts:
        return ()
    (part,) = parts
    name, counts = part.split("=")
    found = tuple(None if count == "linear" else int(count) for count in counts.split("+"))
    if name != "units" or len(found) != sites:
        raise ValueError(part)
    return found
