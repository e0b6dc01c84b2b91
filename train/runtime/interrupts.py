"""Ctrl-C and SIGTERM: a command stops with one line; training stops after a resumable step.

The module imports nothing slow, so that a command can call `end_in_one_line` before its other
imports.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Longer than our Python code takes between two checks for signals; compiled code may never check.
_PATIENCE_S = 1.0


class Interruption:
    """Records a request to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.signals = 0  # seen by the watching thread
        self._announced = threading.Lock()

    def announce(self) -> None:
        """Prints once what happens next."""
        if self._announced.acquire(blocking=False):
            line = "\nstopping after this step; interrupt again to stop at once"
            print(line, file=sys.stderr, flush=True)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            _raise(number, frame)
        self.requested, _Process.number = True, number
        self.announce()


class _Process:
    """State of the process's signal handling."""

    line = "stopped"
    number: int = signal.SIGINT
    active: Interruption | None = None
    raised = threading.Event()


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Records the first signal instead of raising; a second one raises KeyboardInterrupt.

    So a training step, or a checkpoint that is being written, completes. Does nothing outside the
    main thread, where Python cannot handle signals.
    """
    request = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._request) for number in _SIGNALS}
    _Process.active = request
    try:
        yield request
    finally:
        _Process.active = None
        for number, handler in before.items():
            signal.signal(number, handler)


def end_in_one_line() -> None:
    """Makes a signal end the process with one line on stderr and exit status 128 + its number.

    Call it in the main thread of a command's process. KeyboardInterrupt is raised as usual, so that
    open files are closed. If a library's callback swallows it, or compiled code delays it, the
    process ends all the same.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _raise)
    threading.Thread(target=_watch, args=(read_end,), name="signals", daemon=True).start()
    print_exception, print_unraisable = sys.excepthook, sys.unraisablehook

    def on_exception(kind, error, trace):
        if not issubclass(kind, KeyboardInterrupt):
            print_exception(kind, error, trace)
            return
        _leave()

    def on_unraisable(lost):
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            print_unraisable(lost)
            return
        _leave()

    sys.excepthook, sys.unraisablehook = on_exception, on_unraisable


def set_stop_message(line: str) -> None:
    """Sets the line that the process prints when it is stopped."""
    _Process.line = line


def stopped() -> SystemExit:
    """Prints the stop message and returns the SystemExit to raise."""
    print(f"\n{_Process.line}", file=sys.stderr, flush=True)
    return SystemExit(128 + _Process.number)


def _raise(number: int, frame: FrameType | None) -> None:
    _Process.number = number
    _Process.raised.set()
    raise KeyboardInterrupt


def _watch(read_end: int) -> None:
    """Ends the process if the main thread does not; runs in its own thread."""
    requested = False
    while True:
        for number in os.read(read_end, 64):
            active = _Process.active
            if number not in _SIGNALS:
                continue
            if active is not None:
                active.signals += 1
                if active.signals == 1:
                    active.announce()
                    continue
            _Process.number = number
            if requested or not _Process.raised.wait(_PATIENCE_S):
                _leave()
            requested = True


def _leave() -> None:
    stopped()
    sys.stdout.flush()
    os._exit(128 + _Process.number)
