"""Paths of checkpoints that orbax takes literally, and names of unfinished checkpoints."""

import glob
import hashlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from orbax.checkpoint import v1 as ocp

from lcjax.validation.arguments import check_path

PathLike = str | os.PathLike[str]

# Suffixes of unfinished checkpoints: those of `save`, and those of orbax.
CLAIMED = ".lcjax-unfinished"
_IN_PARTS, _TEMPORARY = ".partial_save", ".orbax-checkpoint-tmp"
UNFINISHED = (_TEMPORARY, _IN_PARTS, _IN_PARTS + _TEMPORARY)
_LONGEST_NAME = 255  # bytes, on the usual file systems

_LocalPath: Any = type(ocp.path.Path("/"))


class LiteralPath(_LocalPath):
    """A local path whose characters are never interpreted as a pattern.

    orbax finds the parts of a checkpoint by a pattern that starts with the checkpoint's path, and
    skips parts that do not match: with `[1]` or `**` in the path, all arrays.
    """

    def glob(self, pattern: str) -> Iterator[Any]:
        """Yields the paths below this one that match a pattern."""
        for found in sorted(glob.glob(os.path.join(glob.escape(str(self)), pattern))):
            yield type(self)(found)


def orbax_context(path: ocp.path.Path) -> ocp.Context:
    """Returns the context in which orbax takes a path of `absolute_path` literally.

    Directories are created synchronously, because orbax numbers the saves of a process and would
    otherwise confuse those of two threads.
    """
    context = ocp.Context()
    context.asynchronous.create_directories_asynchronously = False
    if not is_remote(path):
        context.file.path_class = LiteralPath  # type: ignore
    return context


def absolute_path(path: PathLike) -> ocp.path.Path:
    """Returns an absolute path for orbax from a relative path, one with `~`, or a URL.

    Raises:
      TypeError: neither a string nor PathLike.
      ValueError: an invalid path.
    """
    check_path(path)
    text = os.fspath(path)
    if text.startswith("file://"):
        text = _of_url(text)
    if "://" in text:
        return ocp.path.Path(text)
    _check(text)
    return LiteralPath(os.path.abspath(os.path.expanduser(text)))


def is_remote(path: ocp.path.Path) -> bool:
    """Returns whether a path is in an object store, such as `gs://`."""
    return not isinstance(path, LiteralPath)


def check_name(target: ocp.path.Path) -> None:
    """Raises if the name of a new checkpoint is reserved.

    Raises:
      ValueError: the name contains a mark of unfinished checkpoints.
    """
    marks = [mark for mark in (_TEMPORARY, _IN_PARTS, CLAIMED) if mark in target.name]
    if marks:
        raise ValueError(
            f"{target}: got a name with {marks[0]!r}, which marks unfinished checkpoints; choose "
            "another name."
        )


def claim_path(target: ocp.path.Path) -> ocp.path.Path:
    """Returns the directory in which a checkpoint is written until it is complete."""
    name = target.name + CLAIMED
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(target.name)).hexdigest() + CLAIMED
    return target.with_name(name)


def unfinished_save(target: ocp.path.Path) -> ocp.path.Path | None:
    """Returns the files of an interrupted or running save to this path; None without any."""
    left = [target.with_name(target.name + suffix) for suffix in UNFINISHED]
    return next((path for path in (claim_path(target), *left) if exists(path)), None)


def exists(path: ocp.path.Path) -> bool:
    """Returns whether a path exists, or is a broken link."""
    return path.exists() if is_remote(path) else os.path.lexists(path)


def _check(text: str) -> None:
    if not text:
        raise ValueError("path: got an empty string, expected the name of a directory.")
    if "\0" in text:
        raise ValueError(f"path: got {text!r}, expected a path without a NUL character.")
    if "\\" in text and os.sep != "\\":
        raise ValueError(
            f"{text}: got a backslash, which TensorStore treats as a slash; rename the directory."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{text!r}: got a name that TensorStore cannot open, expected UTF-8; rename the "
            "directory."
        ) from error


def _of_url(url: str) -> str:
    """Returns the local path of a `file:` URL."""
    parts = urlsplit(url, allow_fragments=False)
    local = parts.netloc in ("", "localhost") and parts.path.startswith("/") and not parts.query
    if not local:
        raise ValueError(f"{url}: expected file:/// and an absolute path.")
    return unquote(parts.path, errors="strict")
