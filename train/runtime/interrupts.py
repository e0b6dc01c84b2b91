"""Ctrl-C and SIGTERM: a command ends at once and in one line; steps end where they can be resumed.

It imports nothing that takes time, so that a command can call `end_in_one_line` before it imports
the rest.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Longer than any Python code of ours runs between two looks at signals; compiled code may not look.
_PATIENCE_S = 1.0


class Interruption:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
        self.asked = False
        self.signals = 0  # that the watching thread saw
        self._announced = threading.Lock()

    def announce(self) -> None:
        """Says once what happens next."""
        if self._announced.acquire(blocking=False):
            print(
                "\nstopping after this step; once more stops at once", file=sys.stderr, flush=True
            )

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            _raise(number, frame)
        self.asked, _Process.number = True, number
        self.announce()


class _Process:
    """What the process does when it is stopped."""

    line = "stopped"
    number: int = signal.SIGINT
    noting: Interruption | None = None
    raised = threading.Event()


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Within it, the first signal is only noted; a second one raises KeyboardInterrupt.

    A step of training, and a checkpoint that is being written, thus end as they should. Outside
    the main thread, where Python lets nobody handle signals, nothing is changed.
    """
    noted = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.signal(number, noted._ask) for number in _SIGNALS}
    _Process.noting = noted
    try:
        yield noted
    finally:
        _Process.noting = None
        for number, handler in before.items():
            signal.signal(number, handler)


def end_in_one_line() -> None:
    """Lets a signal end the process at once, with one line on stderr and status 128 + its number.

    For the process of a command; call it in the main thread. KeyboardInterrupt is raised as usual,
    so that what is open is closed. Where it is lost, in a callback of a library, or does not come
    because compiled code is running, the process ends nevertheless.
    """
    heard, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _raise)
    threading.Thread(target=_watch, args=(heard,), name="signals", daemon=True).start()
    shown, unraisable = sys.excepthook, sys.unraisablehook

    def on_exception(kind, error, trace):
        if not issubclass(kind, KeyboardInterrupt):
            shown(kind, error, trace)
            return
        _leave()

    def on_unraisable(lost):
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            unraisable(lost)
            return
        _leave()

    sys.excepthook, sys.unraisablehook = on_exception, on_unraisable


def say_when_stopped(line: str) -> None:
    """Sets the line that the process says when it is stopped from here on."""
    _Process.line = line


def stopped() -> SystemExit:
    """Says that the process was stopped, and returns the exit to raise."""
    print(f"\n{_Process.line}", file=sys.stderr, flush=True)
    return SystemExit(128 + _Process.number)


def _raise(number: int, frame: FrameType | None) -> None:
    _Process.number = number
    _Process.raised.set()
    raise KeyboardInterrupt


def _watch(heard: int) -> None:
    """Ends the process where the main thread does not come to it; runs in a thread of its own."""
    asked = False
    while True:
        for number in os.read(heard, 64):
            noting = _Process.noting
            if number not in _SIGNALS:
                continue
            if noting is not None:
                noting.signals += 1
                if noting.signals == 1:
                    noting.announce()
                    continue
            _Process.number = number
            if asked or not _Process.raised.wait(_PATIENCE_S):
                _leave()
            asked = True


def _leave() -> None:
    stopped()
    sys.stdout.flush()
    os._exit(128 + _Process.number)
