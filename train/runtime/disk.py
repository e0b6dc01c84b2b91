"""Recognises a full disk among the errors of a run, and reports it in one line."""

import errno
import os
import re
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TENSORSTORE = re.compile(r"\[os_error_code='(\d+)'\]")  # which raises a ValueError


def disk_full_message(error: BaseException, directory: Path) -> str | None:
    """Returns a message for the user; None if the error has another cause than a full disk.

    Args:
      error: the error that ended the run.
      directory: of the run.
    """
    number = _number(error)
    if number not in _FULL:
        return None
    where = getattr(error, "filename", None) or directory
    return (
        f"{where} cannot be written: {os.strerror(number)}. The last complete checkpoint is "
        f"intact; free some space and add --name {directory.name} --resume to the same flags."
    )


def _number(error: BaseException) -> int:
    """Returns the errno of an error; 0 if it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _TENSORSTORE.search(str(error)) if isinstance(error, ValueError) else None
    return int(found[1]) if found else 0
