"""One writer for one path: a checkpoint is written under a claim, and named once it is whole.

A claim is a directory next to the path, with a file that its owner locks. The operating system
takes the lock from a process that dies, so a dead one's claim is free for the next.
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

from lcjax.io.locations import LiteralPath, check_name, claim_of, exists, is_remote

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LOCK = "lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_FREE, _TAKEN, _FAILED = range(3)
_ours: set[str] = set()  # claims of this process's threads: some locks are a whole process's
_guard = Lock()


@contextmanager
def claimed(
    target: ocp.path.Path, check: Callable[[ocp.path.Path], None] | None = None
) -> Iterator[ocp.path.Path]:
    """Yields where to write the checkpoint of a path that is claimed; then gives it its name.

    When the body raises, what it wrote is deleted and there is nothing at the path. In a job of
    several processes each enters this; the first of them claims the path for all, and checks what
    was written: the others may come to the end of the body before it is whole.

    Args:
      target: the path.
      check: raises where what was written is not to get its name.

    Raises:
      FileExistsError: there is something at the path, or another save is writing it.
      OSError: in every process, where the check raised in the first.
      ValueError: a name that no checkpoint may have.
    """
    if is_remote(target):  # a name there is given to what is whole, by orbax
        check_free(target)
        yield target
        with _agreed(target):
            if _first() and check is not None:
                check(target)
        return
    with ExitStack() as stack:
        with _agreed(target):
            if _first():
                stack.enter_context(_claim(target))
        claim, name = claim_of(target), f"{_same_for_all(secrets.randbits(31)):x}"
        yield LiteralPath(claim / name)
        with _agreed(target):
            if _first():
                if check is not None:
                    check(LiteralPath(claim / name))
                check_free(target)
                os.rename(claim / name, target)


def check_free(target: ocp.path.Path) -> None:
    """Raises unless a checkpoint may be written to a path, as far as can be told before.

    Raises:
      FileExistsError: there is something at the path.
      ValueError: a name that no checkpoint may have.
    """
    check_name(target)
    if exists(target):
        raise FileExistsError(
            f"{target} exists and nothing is ever overwritten: name another path, or move what "
            "is there."
        )


def _first() -> bool:
    return jax.process_index() == 0


def _same_for_all(number: int) -> int:
    """Returns the number that the first process gives."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.uint32(number)))


@contextmanager
def _agreed(target: ocp.path.Path) -> Iterator[None]:
    """Raises in every process of a job where the body raised in the first of them."""
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    taken = isinstance(error, FileExistsError)
    state = _same_for_all(_FREE if error is None else _TAKEN if taken else _FAILED)
    if error is not None:
        raise error
    if state == _TAKEN:
        raise FileExistsError(f"{target}: the job's first process found it taken: name another.")
    if state == _FAILED:
        raise OSError(f"{target} cannot be written: the job's first process says why.")


def _busy(target: ocp.path.Path) -> FileExistsError:
    return FileExistsError(
        f"{target}: another process or thread is saving to this path now: name another path."
    )


@contextmanager
def _claim(target: ocp.path.Path) -> Iterator[None]:
    """Keeps all others from writing to a path, until the end of the body."""
    check_free(target)
    claim = Path(claim_of(target))
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
            check_free(target)  # another's save may have ended meanwhile
            yield
        finally:
            _clear(claim)
            _release(claim, lock)
    finally:
        with _guard:
            _ours.discard(key)


def _locked(claim: Path, target: ocp.path.Path) -> int:
    """Returns the open file that is locked; who unlinks it holds the lock."""
    while True:
        new = not claim.exists()
        claim.mkdir(exist_ok=True)
        try:
            lock = os.open(claim / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its owner ended just now
            continue
        try:
            _take(lock, new, claim, target)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(claim / _LOCK), os.fstat(lock)):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # of a claim that its owner ended just now


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
        if not new:  # a file system without locks cannot tell a dead owner from a living one
            raise FileExistsError(
                f"{target}: another save has begun it in {claim}, and this file system has no "
                "locks to tell whether that still runs: name another path."
            ) from error


def _clear(claim: Path) -> None:
    with suppress(FileNotFoundError):  # somebody removed the claim
        for left in claim.iterdir():
            if left.name != _LOCK:
                shutil.rmtree(left, ignore_errors=True)


def _release(claim: Path, lock: int) -> None:
    with suppress(OSError):  # the next owner is there already, or somebody removed the claim
        os.unlink(claim / _LOCK)
        claim.rmdir()
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
