"""A plan in the time of a baseline: as fast or a little faster, whatever its parameters."""

import pytest

import lcjax
from benchmarks.baselines import base
from benchmarks.baselines.ours import same_time
from lcjax.models import MLP
from lcjax.planning.measuring import latency
from tests.helpers.compressible import small_task
from train.validation import ConfigError

pytestmark = [pytest.mark.slow, pytest.mark.promotes]
TARGET = base.Target(("mlp/act_1",), 1_000_000)


@pytest.fixture
def task(monkeypatch):
    """A task on a machine whose time is the number of parameters that it reads."""
    task = small_task(MLP((64, 64, 4)), rows=512)

    def seconds(program, tree, inputs, repeats):
        return 1e-6 * repeats * lcjax.count_parameters(tree)

    monkeypatch.setattr(latency, "_seconds", seconds)
    monkeypatch.setattr(base, "zeros", lambda task: task.calibration[0][0][:32])
    return task


def with_low_rank_at(monkeypatch, share):
    """Makes low rank take this share of the deep model's time."""

    def measured(task, forms):
        deep = lcjax.count_parameters(task.variables)
        ms = {name: lcjax.count_parameters(tree) for name, (_, tree) in forms.items()}
        ms["low rank"] = share * deep
        return {name: {"latency_ms": {"32": each}} for name, each in ms.items()}

    monkeypatch.setattr(base, "measured", measured)


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_the_plan_takes_the_time_of_low_rank(share, task, monkeypatch):
    with_low_rank_at(monkeypatch, share)
    done = same_time.keep_to_time(task, TARGET)
    assert done.times["low rank"] == pytest.approx(share)
    assert 0.8 * share < done.times["plan"] <= share
    deep = lcjax.count_parameters(task.variables)
    assert lcjax.count_parameters(done.variables) == pytest.approx(done.times["plan"] * deep)


def test_a_time_that_no_plan_takes_is_an_error(task, monkeypatch):
    with_low_rank_at(monkeypatch, 1e-4)
    with pytest.raises(ConfigError, match="no plan is as fast as low rank: budget: Latency"):
        same_time.keep_to_time(task, TARGET)
