"""The directory in which a folder grows until it is complete; a killed run goes on in it."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lcjax.folder.storage.shard_writer import sync
from lcjax.validation.json_files import read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_JOB, _LOCK, _FOLDER, _DONE = "job.json", "lock", "folder", "done"


class WorkDirectory:
    """A directory next to the final one, with the unfinished folder and the steps already done.

    Attributes:
      path: of the directory.
      folder: the unfinished folder in it.
    """

    def __init__(self, path: Path):
        """Names a directory that is open; see `open_work`."""
        self.path = path
        self.folder = path / _FOLDER

    def result(self, step: str) -> Any:
        """Returns the JSON value of a step that is done; None where it is not."""
        path = self.path / _DONE / f"{step}.json"
        return read_json(path)["result"] if path.exists() else None

    def mark_done(self, step: str, result: Any) -> None:
        """Records that a step is done, once everything that it wrote is on the disk.

        Args:
          step: its name.
          result: a JSON value.
        """
        _write_json(self.path / _DONE / f"{step}.json", {"result": result})

    def part(self, name: str) -> "WorkDirectory":
        """Returns a directory in this one, for another unfinished folder and its steps."""
        part = WorkDirectory(self.path / name)
        part.create()
        return part

    def create(self) -> None:
        """Creates what is missing of the directory."""
        self.path.mkdir(exist_ok=True)
        for folder in (self.folder, self.path / _DONE):
            folder.mkdir(exist_ok=True)

    def publish(self, target: Path) -> None:
        """Renames the folder to its final path, after all of it is on the disk."""
        for file in sorted(self.folder.rglob("*")):
            sync(file)
        sync(self.folder)
        check_free(target)
        os.rename(self.folder, target)
        sync(target.parent)


def check_free(target: Path) -> None:
    """Raises FileExistsError if a path exists."""
    if os.path.lexists(target):
        raise FileExistsError(
            f"{target}: the path exists; expected a new one. Choose another, or move it away."
        )


def check_target(source: Path, target: Path) -> None:
    """Raises if a folder that is made from another cannot be created.

    Raises:
      FileExistsError: the target exists.
      ValueError: it is inside of the source.
    """
    check_free(target)
    inside, whole = target.resolve(), source.resolve()
    if inside.is_relative_to(whole):
        raise ValueError(
            f"{target}: got a path inside of {source}, expected one outside of the folder that is "
            "read. Choose another path."
        )


@contextmanager
def open_work(
    target: Path, job: Mapping[str, Any], give_up: Callable[[BaseException], bool]
) -> Iterator[WorkDirectory]:
    """Opens the work directory of a folder to write, and removes it at the end.

    It stays where the body is interrupted, so that the same job goes on in it.

    Args:
      target: path of the finished folder.
      job: all on which the result depends, as JSON; an unfinished directory must be of the same.
      give_up: whether an exception leaves nothing to go on with, so that the directory goes too.

    Raises:
      FileExistsError: the target exists, another process is writing it, or an unfinished directory
        is of another job.
    """
    check_free(target)
    path = target.with_name(f".{target.name}.lcjax-unfinished")
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    remove = False
    try:
        _take(lock, target)
        _check_job(path, job)
        work = WorkDirectory(path)
        work.create()
        yield work
        remove = True
    except BaseException as error:
        remove = give_up(error)
        raise
    finally:
        if remove:
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _take(lock: int, target: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileExistsError(
            f"{target}: another process is writing to this path; choose another, or wait."
        ) from error
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}:
            raise


def _check_job(path: Path, job: Mapping[str, Any]) -> None:
    """Writes the job, or raises if the directory is of another one."""
    file = path / _JOB
    if not file.exists():
        _write_json(file, job)
        return
    known, now = read_json(file), json.loads(json.dumps(job))
    differing = sorted(
        name for name in known.keys() | now.keys() if known.get(name) != now.get(name)
    )
    if differing:
        raise FileExistsError(
            f"{path}: an unfinished run with other {', '.join(differing)}; expected the same "
            "source, texts and options. Repeat them, or delete this directory to start again."
        )


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    with suppress(OSError):  # a file system whose directories cannot be synced
        sync(path.parent)
