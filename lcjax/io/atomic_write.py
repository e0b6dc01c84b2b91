"""Atomic writes with one writer per path: a checkpoint is renamed to its path once complete.

A writer claims a path by a directory next to it that contains a locked file. The operating system
releases the lock of a process that dies, so the next writer can take over its claim.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from lcjax.io.file_paths import LiteralPath, check_name, claim_path, exists, is_remote

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LOCK = "lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_FREE, _TAKEN, _FAILED = range(3)
_ours: set[str] = set()  # claims of this process, whose threads share some kinds of locks
_guard = Lock()


@contextmanager
def atomic_write(
    target: ocp.path.Path, check: Callable[[ocp.path.Path], None] | None = None
) -> Iterator[ocp.path.Path]:
    """Claims a path, yields a temporary path to write to, and renames it to the path at the end.

    If the body raises, its files are deleted and the path does not exist. In a job of several
    processes every process enters; the first claims the path and checks the result for all of
    them, because the others may leave the body before it is complete.

    Args:
      target: the final path.
      check: raises if the written checkpoint is not valid.

    Raises:
      FileExistsError: the path exists, or another save is writing to it.
      OSError: in every process, if the check raised in the first.
      ValueError: an invalid name.
    """
    if is_remote(target):  # orbax itself renames complete checkpoints there
        check_free(target)
        yield target
        with _raise_in_all(target):
            if _is_main_process() and check is not None:
                check(target)
        return
    with ExitStack() as stack:
        with _raise_in_all(target):
            if _is_main_process():
                stack.enter_context(_claim(target))
        claim, name = claim_path(target), f"{_broadcast(secrets.randbits(31)):x}"
        yield LiteralPath(claim / name)
        with _raise_in_all(target):
            if _is_main_process():
                if check is not None:
                    check(LiteralPath(claim / name))
                check_free(target)
                os.rename(claim / name, target)


def check_free(target: ocp.path.Path) -> None:
    """Raises unless a new checkpoint can be written to a path.

    Raises:
      FileExistsError: the path exists.
      ValueError: an invalid name.
    """
    check_name(target)
    if exists(target):
        raise FileExistsError(
            f"{target} already exists; expected a new path. Choose another one, or move the old "
            "one away."
        )


def _is_main_process() -> bool:
    return jax.process_index() == 0


def _broadcast(number: int) -> int:
    """Returns the number of the first process, in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.uint32(number)))


@contextmanager
def _raise_in_all(target: ocp.path.Path) -> Iterator[None]:
    """Raises in every process of a job if the body raised in the first."""
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    taken = isinstance(error, FileExistsError)
    state = _broadcast(_FREE if error is None else _TAKEN if taken else _FAILED)
    if error is not None:
        raise error
    if state == _TAKEN:
        raise FileExistsError(
            f"{target}: the path exists for the first process of the job; choose another one."
        )
    if state == _FAILED:
        raise OSError(f"{target} cannot be written: see the error of the job's first process.")


def _busy(target: ocp.path.Path) -> FileExistsError:
    return FileExistsError(
        f"{target}: another process or thread is saving to this path; choose another one."
    )


@contextmanager
def _claim(target: ocp.path.Path) -> Iterator[None]:
    """Keeps other writers from a path until the end of the body."""
    check_free(target)
    claim = Path(claim_path(target))
    key = os.path.join(os.path.realpath(claim.parent), claim.name)
    with _guard:
        if key in _ours:
            raise _busy(target)
        _ours.add(key)
    try:
        claim.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(claim, target)
        try:
            _clear(claim)
            check_free(target)  # another save may have finished in the meantime
            yield
        finally:
            _clear(claim)
            _release(claim, lock)
    finally:
        with _guard:
            _ours.discard(key)


def _locked(claim: Path, target: ocp.path.Path) -> int:
    """Returns the locked, open file of a claim; only its owner unlinks it."""
    while True:
        new = not claim.exists()
        claim.mkdir(exist_ok=True)
        try:
            lock = os.open(claim / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its owner has just finished
            continue
        try:
            _take(lock, new, claim, target)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(claim / _LOCK), os.fstat(lock)):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its owner has just finished


def _take(lock: int, new: bool, claim: Path, target: ocp.path.Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(target) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if not new:  # without locks, a dead owner looks like a live one
            raise FileExistsError(
                f"{target}: another save has started in {claim}, and on a file system without "
                "locks it may still be running; choose another path."
            ) from error


def _clear(claim: Path) -> None:
    with suppress(FileNotFoundError):  # the claim was removed
        for left in claim.iterdir():
            if left.name != _LOCK:
                shutil.rmtree(left, ignore_errors=True)


def _release(claim: Path, lock: int) -> None:
    with suppress(OSError):  # the next owner has it already, or it was removed
        os.unlink(claim / _LOCK)
        claim.rmdir()
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
