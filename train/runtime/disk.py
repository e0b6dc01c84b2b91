"""A disk that takes no more: told apart from every other error, and told in one line."""

import errno
import os
import re
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TENSORSTORE = re.compile(r"\[os_error_code='(\d+)'\]")  # which raises a ValueError


def full_disk(error: BaseException, directory: Path) -> str | None:
    """Returns what to say to the user of a run; None where it was no full disk.

    Args:
      error: that ended the run.
      directory: of the run.
    """
    number = _number(error)
    if number not in _FULL:
        return None
    where = getattr(error, "filename", None) or directory
    return (
        f"{where} cannot be written: {os.strerror(number)}. The last whole checkpoint stays; make "
        f"room, and the same flags with --name {directory.name} --resume continue the run."
    )


def _number(error: BaseException) -> int:
    """Returns the operating system's number of an error, 0 where it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _TENSORSTORE.search(str(error)) if isinstance(error, ValueError) else None
    return int(found[1]) if found else 0
