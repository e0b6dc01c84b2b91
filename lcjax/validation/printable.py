"""Text of unknown origin, made safe for a terminal."""

_KEPT = "\n\t"


def printable(text: object, *, keep: str = "", longest: int | None = None) -> str:
    r"""Returns text with every control character as its escape: `\x1b` for ESC.

    Terminal escape codes, line ends, and marks that reorder or hide text are written out, so that
    a name from a file cannot move the cursor, set a window's title or forge a line of output.

    Args:
      text: what to show; anything, by its `str`.
      keep: characters to leave as they are, such as "\n".
      longest: most characters of it; by default all.
    """
    shown = str(text)
    if longest is not None and len(shown) > longest:
        shown = shown[:longest] + "..."
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode()
        for one in shown
    )


def printable_lines(text: object) -> str:
    """Returns text of several lines with all but line ends and tabs escaped."""
    return printable(text, keep=_KEPT)
