"""Metrics of a run, kept as TensorBoard events and as lines of JSON."""

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
from train.runtime.devices import is_first

FILE = "metrics.jsonl"
_LARGEST = 2**30  # bytes


class Recorder:
    """Writes a step's metrics to `metrics.jsonl` and to TensorBoard events.

    A resumed run starts it at the step of its checkpoint: what was recorded after that step, by
    the run that broke off, is dropped, and the events are written anew from the lines, since those
    that a killed process held back are lost. So every step stands in both once.
    """

    def __init__(self, directory: Path, *, start_step: int = 0):
        """Opens the records in a run's directory, and drops those after `start_step`."""
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
        # Not SummaryWriter: its thread dies where it cannot write, and the next event waits for it.
        self._events = EventsWriter(str(events / "events"))
        for record in kept:
            self._show(record)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records scalars, named with slashes such as `train/loss`, at a step."""
        record = {"step": step, **metrics}
        self._lines.write(_line(record))
        self._show(record)

    def _show(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                event = Event(step=record["step"], wall_time=time.time())
                event.summary.CopyFrom(scalar(name, value))
                self._events.write_event(event)

    def flush(self) -> None:
        """Hands the lines to the operating system, where a killed process cannot lose them."""
        self._lines.flush()
        self._events.flush()

    def close(self) -> None:
        """Closes the records."""
        self._lines.close()
        self._events.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Silent:
    """Records nothing."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records nothing."""

    def flush(self) -> None:
        """Has nothing to hand on."""


def recorder_of(directory: Path, *, start_step: int) -> AbstractContextManager[Any]:
    """Returns a run's recorder; one that records nothing in all processes but the first."""
    if is_first():
        return Recorder(directory, start_step=start_step)
    return nullcontext(_Silent())


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Returns a run's records in order; a last line that was cut short is left out.

    Raises:
      ValueError: when another line is damaged; names it.
    """
    data = read_bounded(directory / FILE, largest=_LARGEST)
    records = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        where = f"{directory / FILE}, line {number}"
        record = parse_json(line, where, allow_nan=True)
        step = record.pop("step", None) if isinstance(record, dict) else None
        if type(step) is not int or not all(type(one) in (int, float) for one in record.values()):
            raise ValueError(
                f"{where}: expected an object of a step and numbers. Restore it from a copy."
            )
        records.append({"step": step, **record})
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
