import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcjax import (
    CalibrationData,
    CollapsibleGLU,
    CollapsibleMLP,
    Exact,
    LeastSquares,
    PerUnit,
    calibrate,
    carry_opt_state,
    collapse,
    with_linearity_penalty,
)
from tests.helpers.trees import random_chain, with_slopes

D_IN = 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, D_IN)).astype(np.float32)


def error(model, compact, deep, x=X):
    """Relative error of the compact model against the deep one."""
    apply = jax.jit(model.apply)
    got, want = (np.float64(apply(tree, x)) for tree in (compact, deep))
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def shapes(compact):
    return {name: child["kernel"].shape for name, child in compact["params"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("fit", [LeastSquares(), PerUnit()])
@pytest.mark.parametrize(("norm", "bias"), [(None, False), ("batch", True)])
def test_fits_beat_the_exact_fuse_and_add_biases(fit, norm, bias):
    model, variables = random_chain((12, 11, 5), D_IN, norm=norm, bias=bias)
    variables = with_slopes(variables, 0.3)
    exact, _ = collapse(variables, fit=Exact(max_gap=1))
    stats = calibrate(model.apply, variables, [X], fit=fit)
    compact, report = collapse(variables, calibration=stats)
    assert set(compact) == {"params"} and set(compact["params"]) == {"dense_2"}
    assert "bias" in compact["params"]["dense_2"]
    assert error(model, compact, variables) < 0.8 * error(model, exact, variables)
    assert report.collapsed == ("act_0", "act_1") and report.factored == ()
    assert report.new_leaves == ("dense_2/bias", "dense_2/kernel")
    assert len(report.fits) == (2 if fit.observed == "unit" else 1)
    assert [fit.sites for fit in report.fits][-1][-1] == "act_1"
    text = str(report)
    assert f"({fit.name})" in text and "held out" in text and "act_0" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fit", "hidden", "held"),
    [
        (LeastSquares(), 9, {"down"}),
        (LeastSquares(), 2, {"up", "down"}),
        (PerUnit(), 9, {"down"}),
    ],
)
def test_fits_of_gated_units(fit, hidden, held):
    model = CollapsibleGLU(hidden, 5, nn.silu)
    variables = model.init(jax.random.key(0), X)
    x = X + 1  # gates that are mostly open
    exact, _ = collapse(variables, fit=Exact(max_gap=1))
    compact, report = collapse(
        variables, calibration=calibrate(model.apply, variables, [x], fit=fit)
    )
    assert set(compact["params"]) == held
    assert report.factored == (("act",) if len(held) == 2 else ())
    assert error(model, compact, variables, x) < 0.9 * error(model, exact, variables, x)


def test_fits_of_a_bottleneck_are_two_factors():
    model, variables = random_chain((32, 2, 32, 40), 40)
    variables = with_slopes(variables, 0.5)
    x = RNG.normal(size=(400, 40)).astype(np.float32)
    stats = calibrate(model.apply, variables, [x])
    compact, report = collapse(variables, calibration=stats)
    assert shapes(compact) == {"dense_1": (40, 2), "dense_3": (2, 40)}
    assert report.factored == ("act_1",) and report.fits[0].rank == 2
    assert "bias" not in compact["params"]["dense_1"]
    by_moments, _ = collapse(
        variables, calibration=calibrate(model.apply, variables, [x], fit=PerUnit())
    )
    assert shapes(by_moments) == shapes(compact)
    errors = [error(model, tree, variables, x) for tree in (compact, by_moments)]
    assert errors[0] < errors[1]
    assert report.fits[0].error == pytest.approx(errors[0], abs=0.02)
    assert "act_0, act_1, act_2: factors of rank 2, relative error" in str(report)


def low_rank(rank, noise):
    """A chain whose product is, but for noise, of low rank."""
    model, variables = random_chain((24, 20), 30, seed=3)
    left, right = RNG.normal(size=(24, rank)), RNG.normal(size=(rank, 20))
    kernel = left @ right + noise * RNG.normal(size=(24, 20))
    variables["params"]["dense_1"]["kernel"] = kernel.astype(np.float32)
    return model, variables


@pytest.mark.parametrize("fit", [Exact, LeastSquares, PerUnit])
def test_rank_auto_finds_least_rank_within_tolerance(fit):
    model, variables = low_rank(4, 1e-3)
    x = RNG.normal(size=(500, 30)).astype(np.float32)
    stats = calibrate(model.apply, variables, [x], fit=fit()) if fit.needs_data else None
    auto = fit(rank="auto", tolerance=0.02)
    compact, report = collapse(variables, fit=auto, calibration=stats)
    assert shapes(compact) == {"dense_0": (30, 4), "dense_1": (4, 20)}
    assert report.factored == ("act_0",)
    assert report.fits[-1].rank == 4 and report.fits[-1].truncation < 0.02
    assert error(model, compact, variables, x) < 0.02
    assert report.parameters_after == 30 * 4 + 4 * 20 + 20
    whole, _ = collapse(variables, fit=fit(rank="auto", tolerance=1e-5), calibration=stats)
    assert shapes(whole) == {"dense_1": (30, 20)}


def test_rank_applies_only_where_factors_are_smaller():
    _, variables = low_rank(4, 1.0)
    compact, report = collapse(variables, fit=Exact(rank=3))
    assert shapes(compact) == {"dense_0": (30, 3), "dense_1": (3, 20)}
    assert report.fits[0].rank == 3
    whole, report = collapse(variables, fit=Exact(rank=12))  # 12 · (30 + 20) = 30 · 20
    assert shapes(whole) == {"dense_1": (30, 20)} and report.fits == ()


@pytest.mark.parametrize(
    ("fit", "arguments", "message"),
    [
        (Exact, {"rank": 0}, "rank is 0; expected None, 'auto' or a number of at least 1"),
        (PerUnit, {"rank": "low"}, "rank is 'low'; expected"),
        (Exact, {"tolerance": 1.0}, r"tolerance is 1.0; expected a relative error in \[0, 1\)"),
        (LeastSquares, {"ridge": -1.0}, "ridge is -1.0; expected a number of at least 0"),
    ],
)
def test_fits_reject_numbers_out_of_range(fit, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(**arguments)


def test_collapse_rejects_fits_that_do_not_belong_to_the_calibration():
    model, variables = random_chain((8, 5), D_IN)
    with pytest.raises(TypeError, match="fit: got 'least_squares', expected lcjax.Exact()"):
        collapse(variables, fit="least_squares")
    with pytest.raises(ValueError, match="which needs data; expected a calibration with it"):
        collapse(variables, fit=LeastSquares())
    stats = calibrate(model.apply, variables, [X])
    with pytest.raises(TypeError, match="fit: got a Calibration, expected lcjax.Exact()"):
        collapse(variables, fit=stats)
    for fit in (Exact(), PerUnit()):
        with pytest.raises(ValueError, match="but the calibration is for LeastSquares"):
            collapse(variables, fit=fit, calibration=stats)


def test_ranks_reject_traced_and_stacked_values():
    _, variables = random_chain((8, 5), D_IN)
    with pytest.raises(ValueError, match="dense_0: traced or abstract, but fits and ranks need"):
        jax.jit(lambda tree: collapse(tree, "act_0", Exact(rank=1))[0])(variables)
    stack = lambda tree: jax.tree.map(lambda leaf: np.stack([leaf, leaf]), tree)
    with pytest.raises(ValueError, match=r"dense_0: kernel \(2, 6, 8\) is of stacked layers"):
        collapse(stack(variables), fit=Exact(rank=1))


@pytest.mark.promotes
def test_fits_keep_half_precision():
    model, variables = random_chain((12, 5), D_IN, dtype=jnp.bfloat16.dtype)
    variables = with_slopes(jax.tree.map(jnp.asarray, variables), 0.3)
    stats = calibrate(model.apply, variables, [X])
    assert stats.train["dense_1"].xx.dtype == np.float32
    compact, report = collapse(variables, calibration=stats)
    assert {leaf.dtype for leaf in jax.tree.leaves(compact)} == {jnp.bfloat16.dtype}
    exact, _ = collapse(variables, fit=Exact(max_gap=1))
    assert error(model, compact, variables) < 0.8 * error(model, exact, variables)


@pytest.mark.slow
def test_fits_keep_boxes_and_numpy_arrays():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    model = CollapsibleMLP((12, 5), nn.relu, kernel_init=init)
    variables = model.init(jax.random.key(0), X)
    stats = calibrate(model.apply, variables, [X], fit=LeastSquares(rank=2))
    compact, _ = collapse(variables, calibration=stats)
    assert compact["params"]["dense_0"]["kernel"].names == ("in", "out")
    model, host = random_chain((12, 5), D_IN)
    compact, _ = collapse(host, calibration=calibrate(model.apply, host, [X]))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(compact))


def test_fits_report_scarce_data_and_dead_units():
    model, variables = random_chain((12, 5), D_IN)
    variables = with_slopes(variables, 0.0)
    bias = np.where(np.arange(12) < 3, -100, variables["params"]["dense_0"]["bias"])
    variables["params"]["dense_0"]["bias"] = bias.astype(np.float32)
    few = calibrate(model.apply, variables, CalibrationData([X[:5]], holdout=0.0))
    compact, report = collapse(variables, calibration=few)
    assert report.fits[0].notes == ("5 tokens for 6 inputs: give more data",)
    assert report.fits[0].held_out_error is None
    assert error(model, compact, variables, X[:5]) < 0.1
    assert np.isfinite(error(model, compact, variables))
    flat = X.copy()
    flat[:, 2], flat[:, 3] = 1.0, flat[:, 4]
    _, report = collapse(variables, calibration=calibrate(model.apply, variables, [flat]))
    assert report.fits[0].notes == ("inputs have rank 4 of 6", "1 of 6 inputs never vary")
    _, report = collapse(
        variables, calibration=calibrate(model.apply, variables, [X], fit=PerUnit())
    )
    assert report.fits[0].notes == ("3 of 12 units dead",)
    assert "act_0: 3 of 12 units dead" in str(report)


@pytest.mark.slow
@pytest.mark.promotes
def test_training_continues_after_a_fitted_collapse():
    model, variables = random_chain((12, 11, 5), D_IN)
    params = with_slopes(jax.tree.map(jnp.asarray, variables["params"]), {"act_1": 1.0})
    tx = with_linearity_penalty(optax.adam(optax.cosine_decay_schedule(1e-3, 10)), strength=0.1)
    target = jax.jit(model.apply)({"params": params}, X) + 1

    @jax.jit
    def step(params, state):
        loss = lambda p: ((model.apply({"params": p}, X) - target) ** 2).mean()
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state = tx.init(params)
    params, state, _ = step(params, state)
    _, _, before = step(params, state)
    apply = lambda params, x: model.apply({"params": params}, x)
    compact, report = collapse(params, calibration=calibrate(apply, params, [X], "act_1"))
    carried = carry_opt_state(tx, state, params, compact, report)
    kept, old = carried.inner[0].mu["act_0"], state.inner[0].mu["act_0"]
    chex.assert_trees_all_equal(kept, old)
    assert not carried.inner[0].mu["dense_2"]["kernel"].any()
    assert int(carried.inner[0].count) == int(carried.shrink.count) == 1
    compact, carried, after = step(compact, carried)
    assert int(carried.inner[0].count) == 2
    # Act 1 has slope 1 but for one step's gradient: the loss does not jump.
    np.testing.assert_allclose(after, before, rtol=1e-2)


@pytest.mark.parametrize("ridge", [1e-3, 0.0])
def test_least_squares_is_independent_of_input_units(ridge):
    model, variables = random_chain((12, 5), D_IN)
    variables = with_slopes(variables, 0.0)
    units = np.ones(D_IN, np.float32)
    units[2] = 1000
    first = variables["params"]["dense_0"]
    scaled = first | {"kernel": first["kernel"] / units[:, None]}
    other = {"params": variables["params"] | {"dense_0": scaled}}
    found = []
    for tree, x in ((variables, X), (other, X * units)):
        stats = calibrate(model.apply, tree, CalibrationData([x], holdout=0.0))
        found.append(collapse(tree, fit=LeastSquares(ridge=ridge), calibration=stats)[1].fits[0])
    t = np.float64(jax.jit(model.apply)(variables, X))
    rows = np.concatenate([X, np.ones((len(X), 1))], 1).astype(np.float64)
    missed = t - rows @ np.linalg.lstsq(rows, t, rcond=None)[0]
    r2 = 1 - (missed**2).sum() / ((t - t.mean(0)) ** 2).sum()
    assert [fit.r2 for fit in found] == pytest.approx([r2, r2], abs=1e-4)
    assert found[1].notes == ()
