"""Records of a run: lines of JSON and TensorBoard events that say the same, each step once."""

import pytest

from tests.helpers.runs import events
from train.engine.metrics_writer import FILE, MetricsWriter, read_metrics

LOSS, SLOPE = "train/loss", "slope/mlp/act_0"


def write(directory, steps, *, start_step=0, loss=1.0):
    with MetricsWriter(directory, start_step=start_step) as recorder:
        for step in steps:
            recorder.write(step, {LOSS: loss / step, SLOPE: step / 64})


def test_lines_and_events_hold_every_record(tmp_path):
    write(tmp_path, [10, 20, 30])
    records = read_metrics(tmp_path)
    assert records == [{"step": s, LOSS: 1 / s, SLOPE: s / 64} for s in (10, 20, 30)]
    shown = events(tmp_path)
    assert [(step, name) for step, name, _ in shown] == [
        (step, name) for step in (10, 20, 30) for name in (LOSS, SLOPE)
    ]
    for step, name, value in shown:
        assert value == pytest.approx(1 / step if name == LOSS else step / 64)


def test_a_resumed_run_drops_what_was_recorded_after_its_checkpoint(tmp_path):
    write(tmp_path, [10, 20, 30, 40])
    write(tmp_path, [30, 40, 50], start_step=20, loss=2.0)
    want = {10: 1 / 10, 20: 1 / 20, 30: 2 / 30, 40: 2 / 40, 50: 2 / 50}
    assert [(record["step"], record[LOSS]) for record in read_metrics(tmp_path)] == [*want.items()]
    losses = [(step, value) for step, name, value in events(tmp_path) if name == LOSS]
    assert [step for step, _ in losses] == list(want) and dict(losses) == pytest.approx(want)


def test_events_that_a_killed_run_lost_come_back_from_the_lines(tmp_path):
    write(tmp_path, [10, 20, 30])
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    write(tmp_path, [30], start_step=20)
    assert [step for step, name, _ in events(tmp_path) if name == LOSS] == [10, 20, 30]


def test_a_run_that_starts_over_keeps_nothing(tmp_path):
    write(tmp_path, [10, 20])
    write(tmp_path, [10], loss=3.0)
    assert [record[LOSS] for record in read_metrics(tmp_path)] == [3.0 / 10]
    assert [value for _, name, value in events(tmp_path) if name == LOSS] == pytest.approx([0.3])


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    write(tmp_path, [10, 20])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 30, "train/lo')
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]
    write(tmp_path, [30], start_step=20)
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20, 30]


def test_flushed_records_can_be_read_while_the_run_goes_on(tmp_path):
    with MetricsWriter(tmp_path) as recorder:
        recorder.write(1, {LOSS: 0.5})
        recorder.flush()
        assert read_metrics(tmp_path) == [{"step": 1, LOSS: 0.5}]


def test_floats_come_back_bit_for_bit_after_a_resumption(tmp_path):
    value = 0.1 + 2**-40
    with MetricsWriter(tmp_path) as recorder:
        recorder.write(1, {LOSS: value})
    before = (tmp_path / FILE).read_bytes()
    write(tmp_path, [], start_step=1)
    assert (tmp_path / FILE).read_bytes() == before
    assert read_metrics(tmp_path)[0][LOSS] == value
