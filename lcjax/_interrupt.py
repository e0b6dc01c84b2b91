"""Ctrl-C stops the command `lcjax` with one line, during its imports too."""

import os
import signal
import sys
import threading
from types import FrameType

STATUS = 130  # 128 and the number of SIGINT


def end_in_one_line() -> None:
    """Makes Ctrl-C end the process with one line on stderr and status 130.

    Until `raise_as_usual` is called it ends at once, since an import would turn KeyboardInterrupt
    into an ImportError. After that it ends by KeyboardInterrupt, so that open files are closed.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _on_signal)
    shown, unraisable = sys.excepthook, sys.unraisablehook

    def on_exception(kind, error, trace):
        _leave() if issubclass(kind, KeyboardInterrupt) else shown(kind, error, trace)

    def on_unraisable(lost):
        _leave() if issubclass(lost.exc_type, KeyboardInterrupt) else unraisable(lost)

    sys.excepthook, sys.unraisablehook = on_exception, on_unraisable


def raise_as_usual() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt again, after all imports."""
    if signal.getsignal(signal.SIGINT) is _on_signal:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _leave()


def _leave() -> None:
    print("\nstopped", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(STATUS)
