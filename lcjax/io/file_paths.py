"""Where checkpoints lie: paths that orbax and TensorStore take literally, and names in progress."""

import glob
import hashlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from orbax.checkpoint import v1 as ocp

from lcjax.validation.arguments import check_path

PathLike = str | os.PathLike[str]

# What the name of a checkpoint ends in while it is written: by `save`, and by orbax alone.
CLAIMED = ".lcjax-unfinished"
_IN_PARTS, _TEMPORARY = ".partial_save", ".orbax-checkpoint-tmp"
UNFINISHED = (_TEMPORARY, _IN_PARTS, _IN_PARTS + _TEMPORARY)
_LONGEST_NAME = 255  # bytes, on the usual file systems

_LocalPath: Any = type(ocp.path.Path("/"))


class LiteralPath(_LocalPath):
    """A local path whose own characters are never read as a pattern.

    orbax looks for the parts of a checkpoint by a pattern that begins with the checkpoint's path,
    and leaves out what it does not find: with `[1]` or `**` in the path, all arrays.
    """

    def glob(self, pattern: str) -> Iterator[Any]:
        """Yields the paths below this one that match a pattern."""
        for found in sorted(glob.glob(os.path.join(glob.escape(str(self)), pattern))):
            yield type(self)(found)


def orbax_context(path: ocp.path.Path) -> ocp.Context:
    """Returns the context in which orbax takes a path that `absolute` returned literally.

    Directories are made at once: orbax numbers the saves of a whole process, and where it makes
    directories later those of two threads are mixed up.
    """
    context = ocp.Context()
    context.asynchronous.create_directories_asynchronously = False
    if not is_remote(path):
        context.file.path_class = LiteralPath  # type: ignore
    return context


def absolute(path: PathLike) -> ocp.path.Path:
    """Returns a path, relative, with `~`, absolute or a URL, as orbax wants it.

    Raises:
      TypeError: no path.
      ValueError: a path that no checkpoint can have.
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
    """Tells whether a path leads into a store that is no file system, such as `gs://`."""
    return not isinstance(path, LiteralPath)


def check_name(target: ocp.path.Path) -> None:
    """Raises unless a new checkpoint may be called so.

    Raises:
      ValueError: the name is one that marks unfinished checkpoints.
    """
    marks = [mark for mark in (_TEMPORARY, _IN_PARTS, CLAIMED) if mark in target.name]
    if marks:
        raise ValueError(
            f"{target}: got a name with {marks[0]!r}, which marks checkpoints that are not "
            "finished; expected another name."
        )


def claim_of(target: ocp.path.Path) -> ocp.path.Path:
    """Returns the directory in which a checkpoint is written until it is whole."""
    name = target.name + CLAIMED
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(target.name)).hexdigest() + CLAIMED
    return target.with_name(name)


def begun(target: ocp.path.Path) -> ocp.path.Path | None:
    """Returns what a save to this path that did not end has left, or is writing now."""
    left = [target.with_name(target.name + suffix) for suffix in UNFINISHED]
    return next((path for path in (claim_of(target), *left) if exists(path)), None)


def exists(path: ocp.path.Path) -> bool:
    """Tells whether there is something at a path, a broken link included."""
    return path.exists() if is_remote(path) else os.path.lexists(path)


def _check(text: str) -> None:
    if not text:
        raise ValueError("path: got an empty one, expected the name of a directory.")
    if "\0" in text:
        raise ValueError(f"path: got {text!r}, expected a path without a NUL character.")
    if "\\" in text and os.sep != "\\":
        raise ValueError(
            f"{text}: got a backslash in the path, which TensorStore takes for a slash; expected a "
            "path without one: rename the directory."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{text!r}: got bytes in the path that are no UTF-8, which TensorStore cannot open; "
            "expected UTF-8: rename the directory."
        ) from error


def _of_url(url: str) -> str:
    """Returns the local path that a `file:` URL names."""
    parts = urlsplit(url, allow_fragments=False)
    local = parts.netloc in ("", "localhost") and parts.path.startswith("/") and not parts.query
    if not local:
        raise ValueError(f"{url}: got this URL, expected file:/// and an absolute path.")
    return unquote(parts.path, errors="strict")
