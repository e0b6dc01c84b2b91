"""Text of somebody else's that a terminal may show."""


def printable(text: str) -> str:
    r"""Returns a text with its control characters escaped, lines kept.

    What a terminal would obey, such as `\x1b[2J`, or would show in another order than it is
    stored, comes out as Python writes it in a string.
    """
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )
