"""Ctrl-C and SIGTERM while steps are taken: the run stops where it can be resumed."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step; once more stops at once", file=sys.stderr, flush=True)


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
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
