"""Metrics of a run, written as TensorBoard events and as lines of JSON."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

from lcjax.validation.json_files import parse_json, read_bounded
from train.runtime.devices import is_main_process

FILE = "metrics.jsonl"
_LARGEST = 2**30  # bytes


class MetricsWriter:
    """Writes a step's metrics to `metrics.jsonl` and to TensorBoard events.

    A resumed run opens it at the step of its checkpoint: later records of the interrupted run are
    dropped, and the events are rewritten from the lines, since a killed process loses those that it
    buffered. So every step is in both files once.
    """

    def __init__(self, directory: Path, *, start_step: int = 0):
        """Opens the records in a run's directory; drops those after `start_step`."""
        path, events = directory / FILE, directory / "tensorboard"
        kept = []
        if path.exists():
            kept = [record for record in read_metrics(directory) if record["step"] <= start_step]
            partial = path.with_name(FILE + ".partial")
            partial.write_text("".join(map(_line, kept)), encoding="utf-8")
            os.replace(partial, path)
        if events.exists():
            shutil.rmtree(events)
        self._lines = path.open("a", encoding="utf-8")
        events.mkdir()
        # Not SummaryWriter: if its thread cannot write, it dies, and the next event waits for it.
        self._events = EventsWriter(str(events / "events"))
        for record in kept:
            self._write_events(record)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records scalars, named with slashes such as `train/loss`, at a step."""
        record = {"step": step, **metrics}
        self._lines.write(_line(record))
        self._write_events(record)

    def _write_events(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                event = Event(step=record["step"], wall_time=time.time())
                event.summary.CopyFrom(scalar(name, value))
                self._events.write_event(event)

    def flush(self) -> None:
        """Flushes to the operating system, so that a killed process loses nothing."""
        self._lines.flush()
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        self._lines.close()
        self._events.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _NullWriter:
    """Writes nothing; for all processes but the first."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""


def metrics_writer(directory: Path, *, start_step: int) -> AbstractContextManager[Any]:
    """Returns a run's metrics writer; in all processes but the first it writes nothing."""
    if is_main_process():
        return MetricsWriter(directory, start_step=start_step)
    return nullcontext(_NullWriter())


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Returns a run's records in order; an incomplete last line is ignored.

    Raises:
      ValueError: if another line is damaged; names it.
    """
    data = read_bounded(directory / FILE, largest=_LARGEST)
    records = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        where = f"{directory / FILE}, line {number}"
        record = parse_json(line, where, allow_nan=True)
        step = record.pop("step", None) if isinstance(record, dict) else None
        if type(step) is not int or not all(type(one) in (int, float) for one in record.values()):
            raise ValueError(
                f"{where}: expected an object of a step and numbers. Restore the file from a copy."
            )
        records.append({"step": step, **record})
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
