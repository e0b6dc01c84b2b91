"""Key paths of leaves as text that leads back to the leaf.

Names are joined by `/`: a name for a key of a dict, `.name` for an attribute, `[0]` for an index:
`block_3/up/kernel`, `.layers/[0]/.weight`. In names all but letters, digits and ` ~.-_` are
percent-encoded, and so is a `.` at the start.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

_SAFE = " ~.-_"
_BOX = "/.value"


def encode(keys: Sequence[Any]) -> str:
    """Returns a JAX key path as text.

    Example:
      >>> import jax
      >>> tree = {"layers": [{"kernel": 1.0}]}
      >>> [encode(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
      ['layers/[0]/kernel']
    """
    return "/".join(map(_encode, keys))


def _encode(key: Any) -> str:
    match key:
        case DictKey(key=str(name)):
            return quoted(name)
        case GetAttrKey(name=name):
            return f".{quote(name, safe=_SAFE)}"
        case DictKey(key=int(index)) | SequenceKey(idx=int(index)):
            return f"[{index}]"
        case FlattenedIndexKey(key=index):
            return f"[{index}]"
    return f".{quote(str(key), safe=_SAFE)}"


def quoted(name: str, also: str = "") -> str:
    """Returns a name with all but letters, digits, ` ~.-_` and the characters given encoded."""
    text = quote(name, safe=_SAFE + also)
    return f"%2E{text[1:]}" if text.startswith(".") else text


def strip_box_suffix(path: str) -> str:
    """Returns the encoded path of the box around a leaf, or of the leaf if there is none.

    A box is removed with its leaf; a leaf that is restored has none.
    """
    return path.removesuffix(_BOX)


def decode(name: str) -> str | int | None:
    """Returns the key into a dict or, as an int, into a list; None for other containers."""
    if name.startswith("."):
        return None
    return int(name[1:-1]) if name.startswith("[") else unquote(name)


def readable(path: str) -> str:
    """Returns an encoded path as messages name it: `layers/0/weight` for `.layers/[0]/.weight`."""
    names = strip_box_suffix(path).split("/")
    keys = [decode(name) for name in names]
    pairs = zip(names, keys, strict=True)
    return "/".join(unquote(name[1:]) if key is None else str(key) for name, key in pairs)
