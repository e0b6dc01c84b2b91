"""Names in a compact tree: paths of leaves as text, and keys that record which were fused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import jax
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from lcjax.errors import CollapseError
from lcjax.tree.paths import in_params, leaf_path

_KERNELS = frozenset({"kernel", "weight", "w"})
_SAFE = " ~.-_"


def site_name(keys: Sequence[Any]) -> str:
    """Returns the name of the site whose first kernel is the leaf at this key path.

    The path of the leaf inside params, without its last part if that is only a word for kernel:
    `block_3/Dense_0` for `params/block_3/Dense_0/kernel`, `w1` for `w1`.
    """
    return _site_name(leaf_path(keys))


def site_at(path: str) -> str:
    """Returns the name of the site whose first kernel is the leaf at this encoded path."""
    return _site_name(readable(path))


def _site_name(path: str) -> str:
    parent, _, name = in_params(path).rpartition("/")
    return parent if parent and name in _KERNELS else in_params(path)


def encode(keys: Sequence[Any]) -> str:
    """Returns a key path as text: `mlp/Dense_0/kernel`, `layers/[0]/@weight`."""
    return "/".join(map(_encode, keys))


def _encode(key: Any) -> str:
    match key:
        case DictKey(key=str(name)):
            return quote(name, safe=_SAFE)
        case GetAttrKey(name=name):
            return "@" + quote(name, safe=_SAFE)
        case DictKey(key=int(index)) | SequenceKey(idx=int(index)):
            return f"[{index}]"
        case FlattenedIndexKey(key=index):
            return f"[{index}]"
    return "@" + quote(str(key), safe=_SAFE)


def strip_box_suffix(path: str) -> str:
    """Returns the encoded path of the box around a leaf, or of the leaf if there is none.

    A box is removed with its leaf; a leaf that is restored has none.
    """
    return path.removesuffix("/@value")


def decode(name: str) -> str | int | None:
    """Returns the key into a dict or, as an int, into a list; None for other containers."""
    if name.startswith("@"):
        return None
    return int(name[1:-1]) if name.startswith("[") else unquote(name)


def readable(path: str) -> str:
    """Returns an encoded path as messages name it: `layers/0/weight` for `layers/[0]/@weight`."""
    names = strip_box_suffix(path).split("/")
    keys = [decode(name) for name in names]
    pairs = zip(names, keys, strict=True)
    return "/".join(unquote(name[1:]) if key is None else str(key) for name, key in pairs)


@dataclass(frozen=True)
class FusedKey:
    """The contents of the key of a fused entry.

    Attributes:
      sites: the paths of its sites, in forward order.
      widths: the width of each.
      removed: shape and dtype of the removed leaves, by encoded path; None for the dtype of
        the entry's last layer.
      units: how many units of each site stay, 0 where the pair is removed; None for a site that is
        linear. Empty where all are linear.
    """

    sites: tuple[str, ...]
    widths: tuple[int, ...]
    removed: dict[str, tuple[tuple[int, ...], str | None]]
    units: tuple[int | None, ...] = ()

    @property
    def linear(self) -> tuple[str, ...]:
        """The sites whose activation was removed together with a map of its own: one matrix."""
        counts = self.units or (None,) * len(self.sites)
        return tuple(path for path, k in zip(self.sites, counts, strict=True) if k is None)

    @property
    def narrow(self) -> dict[str, int]:
        """How many units stay, by the sites whose activation stays."""
        pairs = zip(self.sites, self.units, strict=True) if self.units else ()
        return {path: k for path, k in pairs if k}

    @property
    def removes(self) -> bool:
        """Whether a pair of layers was removed, and a bias is in its place."""
        return 0 in self.units

    def __str__(self) -> str:
        """Returns the key: `block_3/Dense_0|hidden=512|block_3|Dense_0/bias:512,...`.

        With units that stay, `a+b|hidden=512+512|units=64+linear|...`.
        """
        sites = "+".join(quote(site, safe=_SAFE + "/") for site in self.sites)
        widths = "+".join(map(str, self.widths))
        if self.units:
            counts = ("linear" if k is None else str(k) for k in self.units)
            widths += f"|units={'+'.join(counts)}"
        folders = [path.split("/")[:-1] for path in self.removed]
        shared = 0
        while len({tuple(names[: shared + 1]) for names in folders}) == 1 and shared < min(
            map(len, folders)
        ):
            shared += 1
        prefix = "/".join(folders[0][:shared])
        leaves = []
        for path, (shape, dtype) in sorted(self.removed.items()):
            name = "/".join(path.split("/")[shared:])
            leaves.append(":".join([name, "x".join(map(str, shape)), *([dtype] if dtype else [])]))
        return f"{sites}|hidden={widths}|{prefix}|{','.join(leaves)}"


def parse(key: str) -> FusedKey:
    """Returns the contents of the key of a fused entry.

    Raises:
      CollapseError: another key.
    """
    try:
        sites, widths, *units, prefix, leaves = key.split("|")
        removed = {}
        for leaf in leaves.split(","):
            name, shape, *dtype = leaf.split(":")
            sizes = tuple(int(size) for size in shape.split("x") if size)
            path = f"{prefix}/{name}" if prefix else name
            removed[path] = (sizes, dtype[0] if dtype else None)
        numbers = tuple(int(width) for width in widths.removeprefix("hidden=").split("+"))
        paths = tuple(unquote(site) for site in sites.split("+"))
        return FusedKey(paths, numbers, removed, _counts(units, len(paths)))
    except ValueError as error:
        raise CollapseError(
            f"fused/{key}: got a key that no collapse of a collapsible function makes, expected "
            "`site|hidden=width|folder|leaf:shape,...`, or `site|hidden=width|units=count|...` "
            "where units stay. Restore a tree that `collapse` returned."
        ) from error


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


def abstract(shape: Sequence[int], dtype: str) -> jax.ShapeDtypeStruct:
    """Returns a removed leaf as its shape and dtype."""
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
