"""Bytes and FLOPs of compiled programs, and the least time that rates allow them."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.cost.roofline.operations import Operation, operations
from benchmarks.cost.roofline.rates import START, RatePrograms, Rates
from benchmarks.harness.hlo import KINDS
from lcjax.models import MLPMixer


def compiled_text(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text() or ""


def test_product_has_the_bytes_of_both_factors_and_of_itself():
    (found,) = operations(compiled_text(jnp.matmul, (16, 32), (32, 8)))
    assert (found.kind, found.elements) == ("matrix products", 16 * 8)
    assert found.flops == 2 * 16 * 32 * 8
    assert found.bytes == 4 * (16 * 32 + 32 * 8 + 16 * 8)


def test_map_of_one_array_twice_reads_it_once():
    (found,) = operations(compiled_text(lambda x: jnp.sin(x) * x, (64, 32)))
    assert (found.flops, found.elements, found.bytes) == (0, 64 * 32, 2 * 4 * 64 * 32)


@pytest.mark.slow
def test_products_of_a_mixer_are_all_counted():
    batch, edge, width, tokens = 8, 4, 16, 4
    mixer = MLPMixer(num_classes=3, patch_size=edge, depth=1, width=width, token_hidden=8,
                     channel_hidden=32)  # fmt: skip
    images = jnp.zeros((batch, 2 * edge, 2 * edge, 1))
    variables = mixer.init(jax.random.key(0), images)
    compiled = jax.jit(mixer.apply).lower(variables, images).compile()
    found = operations(compiled.as_text() or "")
    block = width * 2 * tokens * 8 + tokens * 2 * width * 32
    products = tokens * edge**2 * width + block + width * 3
    assert sum(each.flops for each in found) == 2 * batch * products
    assert {each.kind for each in found} >= {"matrix products", "activations", "norms"}


def test_least_time_is_that_of_the_scarcest_and_of_all_starts():
    rates = Rates(bandwidth=1e9, products=1e10, activation=1e-8, operation=1e-6, call=1e-5)
    program = [
        Operation("a", "matrix products", bytes=1000, flops=100_000, elements=10),
        Operation("b", "matrix products", bytes=4000, flops=10_000, elements=1000),
        Operation("c", "activations", bytes=4000, flops=0, elements=1000),
        Operation("d", "norms", bytes=4000, flops=0, elements=1000),
    ]
    wanted = dict.fromkeys(KINDS, 0.0)
    wanted |= {"matrix products": 1e-5 + 4e-6, "activations": 1e-5, "norms": 4e-6}
    assert rates.bounds(program) == pytest.approx(wanted | {START: 1e-5 + 4e-6})


def test_rates_are_those_of_the_difference_between_long_and_short_programs():
    programs = RatePrograms(4, 2, 8, jnp.tanh, (jnp.ones(3),))
    step = {"bandwidth": 1e-6, "products": 2e-6, "activation": 3e-6, "operation": 4e-6}
    calls = programs.calls()
    jax.block_until_ready([call() for call in calls.values()])
    seconds = {"call": [5e-5, 4e-5]}
    for name in calls.keys() - {"call"}:
        kind, length = name.split(", ")
        seconds[name] = [1e-3, 4e-5 + int(length) * step[kind]]
    rates = programs.rates(seconds)
    assert rates.bandwidth == pytest.approx(2 * 4 * 4 * 2 / 1e-6)
    assert rates.products == pytest.approx(2 * 2 * 4 * 2 * 8 / 2e-6)
    assert rates.activation == pytest.approx(3e-6 / (4 * 8))
    assert rates.call == 4e-5
    assert 0 < rates.operation < 4e-6
