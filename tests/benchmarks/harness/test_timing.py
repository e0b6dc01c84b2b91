"""The order of interleaved calls, and the time of one without compilation."""

from collections import Counter
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import pytest

from benchmarks.harness.timing import interleaved, without_compilation

NAMES = ("a", "b", "c", "d", "e")


def order_of_calls(rounds, **options):
    made = []
    interleaved({name: partial(made.append, name) for name in NAMES}, rounds=rounds, **options)
    return made


def test_no_call_follows_itself_or_another_more_often_than_the_rest_do():
    made = order_of_calls(2000, warmup=0)
    assert Counter(made) == dict.fromkeys(NAMES, 2000)
    pairs = Counter(pairwise(made))
    after_itself = [pairs[name, name] for name in NAMES]
    after_others = [pairs[one, two] for one in NAMES for two in NAMES if one != two]
    # Expected 80 and 480 of a random order; standard deviations are about 9 and 20.
    assert all(45 < count < 115 for count in after_itself)
    assert all(400 < count < 560 for count in after_others)


def test_untimed_calls_are_of_the_call_that_follows():
    made = order_of_calls(3, warmup=1, untimed=2)
    assert len(made) == 4 * 5 * 3
    threes = [made[i : i + 3] for i in range(0, len(made), 3)]
    assert all(len(set(three)) == 1 for three in threes)


def test_every_round_is_timed_but_those_of_the_warmup():
    ticks = interleaved({name: lambda: None for name in NAMES}, rounds=3, warmup=2, untimed=1)
    assert {name: len(seconds) for name, seconds in ticks.items()} == dict.fromkeys(NAMES, 3)


def test_compilation_is_taken_from_the_seconds_of_a_call():
    double, x = jax.jit(lambda x: 2 * x), jnp.ones(3)
    stopped = without_compilation(lambda: double(x), clock=lambda: 0.0)
    assert stopped < 0  # minus its tracing, lowering and compilation
    assert without_compilation(lambda: double(x), clock=lambda: 0.0) == 0
    assert without_compilation(lambda: double(x), clock=iter((1.0, 3.5)).__next__) == 2.5


def test_a_call_that_fails_leaves_nothing_behind(monkeypatch):
    removed = []
    monkeypatch.setattr(jax.monitoring, "unregister_event_duration_listener", removed.append)
    with pytest.raises(ZeroDivisionError):
        without_compilation(lambda: 1 / 0)
    (listener,) = removed
    monkeypatch.undo()
    jax.monitoring.unregister_event_duration_listener(listener)
