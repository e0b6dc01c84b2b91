"""Ctrl-C ends the command `lcjax` at once and in one line, while it imports too."""

import os
import sys

STATUS = 130  # 128 and the number of SIGINT


def end_in_one_line() -> None:
    """Lets Ctrl-C end the process with one line on stderr and status 130, wherever it comes."""
    shown, unraisable = sys.excepthook, sys.unraisablehook

    def on_exception(kind, error, trace):
        _leave() if issubclass(kind, KeyboardInterrupt) else shown(kind, error, trace)

    def on_unraisable(lost):
        _leave() if issubclass(lost.exc_type, KeyboardInterrupt) else unraisable(lost)

    sys.excepthook, sys.unraisablehook = on_exception, on_unraisable


def _leave() -> None:
    print("\nstopped", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(STATUS)
