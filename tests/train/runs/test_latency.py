"""FLOPs and milliseconds of compiled calls."""

import itertools

import jax.numpy as jnp
import pytest

from train.runs import latency
from train.runs.latency import compile_forward, flops, latencies


def test_flops_of_a_product_are_what_it_takes():
    compiled = compile_forward(lambda w, x: x @ w, jnp.ones((16, 8)), jnp.ones((4, 16)))
    assert flops(compiled) == pytest.approx(2 * 4 * 16 * 8, rel=0.05)


def test_calls_take_turns_and_the_median_leaves_the_warm_up_out(monkeypatch):
    """A clock of the test's own: call a takes 1, 2, 3 ... seconds, call b always 10."""
    now, order, takes = [0.0], [], {"a": itertools.count(1), "b": itertools.repeat(10)}

    def call(name):
        order.append(name)
        now[0] += next(takes[name])

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    got = latencies({"a": lambda: call("a"), "b": lambda: call("b")}, warmup=2, repeats=3)
    assert order == ["a", "b"] * 5
    assert got == {"a": 1e3 * 4, "b": 1e3 * 10}


def test_a_call_is_waited_for_until_the_device_is_done(monkeypatch):
    waited = []
    monkeypatch.setattr(latency.jax, "block_until_ready", waited.append)
    latencies({"a": lambda: "result"}, warmup=1, repeats=2)
    assert waited == ["result"] * 3
