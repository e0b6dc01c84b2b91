"""Text for messages: values in a few words, and text of unknown origin made safe to print."""

import inspect
from collections.abc import Iterable
from typing import Any


def describe(value: Any) -> str:
    """Returns the type of a value in a few words with an article."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', name)}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def first_few(names: Iterable[Any]) -> str:
    """Returns the first six names in sorted order, and the number of the others."""
    listed = sorted(map(str, names))
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")


def printable(text: object, *, keep: str = "", longest: int | None = None) -> str:
    r"""Returns text with every control character as its escape: `\x1b` for ESC.

    Terminal escape codes, line ends, and marks that reorder or hide text are escaped, so that a
    name from a file cannot move the cursor, set a window's title or forge a line of output.

    Args:
      text: any object, shown by its `str`.
      keep: characters that stay, such as "\n".
      longest: largest number of characters to show; by default all.
    """
    shown = str(text)
    if longest is not None and len(shown) > longest:
        shown = shown[:longest] + "..."
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode()
        for one in shown
    )


def printable_lines(text: object) -> str:
    """Returns text of several lines, all control characters but line ends and tabs escaped."""
    return printable(text, keep="\n\t")
