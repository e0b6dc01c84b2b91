"""FLOPs and milliseconds of compiled calls."""

import itertools

import jax.numpy as jnp
import pytest

from train.runs.latency import compile_forward, flops, latencies


def test_flops_of_a_product_are_what_it_takes():
    compiled = compile_forward(lambda w, x: x @ w, jnp.ones((16, 8)), jnp.ones((4, 16)))
    assert flops(compiled) == pytest.approx(2 * 4 * 16 * 8, rel=0.05)


def test_latencies_are_medians_of_interleaved_calls_after_the_warmup():
    """Call a takes 1, 2, 3, ... seconds, call b always 10."""
    now, order, takes = [0.0], [], {"a": itertools.count(1), "b": itertools.repeat(10)}

    def call(name):
        order.append(name)
        now[0] += next(takes[name])

    calls = {"a": lambda: call("a"), "b": lambda: call("b")}
    got = latencies(calls, warmup=2, repeats=3, clock=lambda: now[0])
    assert order == ["a", "b"] * 5
    assert got == {"a": 1e3 * 4, "b": 1e3 * 10}


def test_latencies_wait_until_the_result_is_there():
    now = [0.0]

    class Result:
        def block_until_ready(self):
            now[0] += 5

    got = latencies({"a": Result}, warmup=1, repeats=2, clock=lambda: now[0])
    assert got == {"a": 1e3 * 5}
