import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lcjax
from lcjax import CollapseError, abstract_collapse, collapse
from tests.helpers.trees import random_chain


def pair(first, second, **bias):
    """A chain of two Denses whose slope is 1."""
    return {
        "dense_0": {"kernel": first, **bias},
        "act_0": {"slope": np.float32(1)},
        "dense_1": {"kernel": second},
    }


def full(dtype, number, xp=np):
    return xp.full((2, 2), number).astype(dtype)


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(
    ("dtype", "number"), [("float16", 200.0), ("float8_e4m3fn", 16.0), ("float32", 1e30)]
)
def test_collapse_rejects_overflow(xp, dtype, number):
    kernel = full(dtype, number, xp)
    with pytest.raises(CollapseError, match=f"act_0: .* leaves the range of {dtype}, whose"):
        collapse(pair(kernel, kernel))
    if xp is np:
        wider = kernel.astype(np.float64)
        compact, _ = collapse(pair(wider, wider))
        np.testing.assert_allclose(compact["dense_1"]["kernel"], 2 * number**2, rtol=1e-6)


@pytest.mark.parametrize("xp", [np, jnp])
def test_collapse_rejects_kernels_that_are_not_finite(xp):
    broken = xp.asarray([[np.nan, 1], [1, 1]], np.float32)
    for tree in (pair(broken, full("float32", 1, xp)), pair(full("float32", 1, xp), broken)):
        with pytest.raises(CollapseError, match=r"act_0: dense_\d has NaN or infinite numbers"):
            collapse(tree)
    tree = pair(full("float32", 1, xp), full("float32", 1, xp), bias=xp.ones(2) * np.inf)
    with pytest.raises(CollapseError, match="act_0: dense_0 has NaN or infinite"):
        collapse(tree)


def test_collapse_rejects_norms_that_are_not_finite():
    _, variables = random_chain((4, 3), 3, norm="batch")
    variables["batch_stats"]["norm_0"]["var"][1] = np.inf
    variables["batch_stats"]["norm_0"]["mean"][1] = np.inf
    with pytest.raises(
        CollapseError, match="act_0: a norm or scale between the Dense layers has NaN or inf"
    ):
        collapse(variables)


def test_collapse_rejects_fits_that_overflow():
    model = lcjax.CollapsibleMLP((8, 4), nn.relu)
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: 3e4 * leaf, model.init(jax.random.key(0), x))
    variables = jax.tree.map(np.asarray, variables)
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), variables)
    stats = lcjax.calibrate(
        lambda tree, x: model.apply(jax.tree.map(jnp.float32, tree), x), half, [x]
    )
    with pytest.raises(CollapseError, match="act_0: .* leaves the range of float16"):
        collapse(half, calibration=stats)


def test_traced_collapse_rejects_overflow():
    f = lcjax.collapsible(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"])
    kernel, x = full("float16", 200.0, jnp), jnp.ones((1, 2), jnp.float16)
    params = f.init({"a": kernel, "b": kernel}, x)
    with pytest.raises(CollapseError, match="leaves the range of float16"):
        f.trace(params, x).collapse(fit=lcjax.Exact(max_gap=1))


@pytest.mark.parametrize("xp", [np, jnp])
def test_collapse_keeps_imaginary_parts(xp):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 3, 3))
    first, second = (xp.asarray(k[0] + 1j * k[1], np.complex64) for k in (a, b))
    compact, _ = collapse(pair(first, second))
    assert compact["dense_1"]["kernel"].dtype == np.complex64
    want = (a[0] + 1j * a[1]) @ (b[0] + 1j * b[1])
    np.testing.assert_allclose(compact["dense_1"]["kernel"], want, rtol=1e-4)
    real = xp.asarray(b[0], np.float32)
    tree = pair(first, real, bias=xp.ones(3, np.complex64) * 1j)
    compact, _ = collapse(tree)
    np.testing.assert_allclose(compact["dense_1"]["kernel"], (a[0] + 1j * a[1]) @ b[0], rtol=1e-4)
    np.testing.assert_allclose(compact["dense_1"]["bias"], 1j * b[0].sum(0), rtol=1e-4)
    abstract, _ = abstract_collapse(tree, "act_0")
    assert abstract["dense_1"]["kernel"].dtype == np.complex64
    with pytest.raises(CollapseError, match="fits and ranks are of real"):
        collapse(tree, fit=lcjax.Exact(rank=1))


@pytest.mark.slow
@pytest.mark.promotes
def test_calibrate_rejects_complex_values():
    model = lcjax.CollapsibleMLP((4, 2), lambda z: z, param_dtype=jnp.complex64)
    x = jnp.ones((4, 3), jnp.complex64)
    variables = model.init(jax.random.key(0), x)
    with pytest.raises(CollapseError, match="dense_0: got a kernel of dtype complex64, but fits"):
        lcjax.calibrate(model.apply, variables, [x])
    real = lcjax.CollapsibleMLP((4, 2), lambda z: z)
    with pytest.raises(CollapseError, match="dense_1: its values are complex, but fits are of"):
        lcjax.calibrate(real.apply, real.init(jax.random.key(0), x), [x])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", ml_dtypes.int4])
def test_collapse_rejects_integer_kernels(dtype):
    kernel = np.ones((2, 2)).astype(dtype)
    with pytest.raises(CollapseError, match=r"act_0: dense_0/kernel: got dtype \w+, expect"):
        collapse(pair(kernel, kernel))


def test_collapse_rejects_scales_and_adapters():
    kernel = full("float32", 1)
    with pytest.raises(CollapseError, match="act_0: dense_0: got scale besides its kernel"):
        collapse(pair(kernel, kernel, scale=np.ones(2)))


def test_collapse_rejects_quantized_kernels():
    class Quantized:
        shape, ndim, dtype = (2, 2), 2, np.dtype("int8")

    with pytest.raises(CollapseError, match="dense_0/kernel: got a Quantized, expected an array"):
        collapse(pair(Quantized(), full("float32", 1)))


def test_abstract_collapse_has_the_dtypes_of_collapse():
    for first, second in ((np.float64, jnp.float32), (jnp.float32, np.float64)):
        tree = pair(
            first(np.eye(3)) if first is jnp.float32 else np.eye(3, dtype=first),
            second(np.eye(3)) if second is jnp.float32 else np.eye(3, dtype=second),
            bias=np.ones(3, np.float32),
        )
        compact, _ = collapse(tree)
        abstract, _ = abstract_collapse(tree, "act_0")
        dtypes = [jax.tree.map(lambda leaf: leaf.dtype, each) for each in (compact, abstract)]
        assert dtypes[0] == dtypes[1]
