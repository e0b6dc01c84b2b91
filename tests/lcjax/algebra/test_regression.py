import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax.algebra import moments
from lcjax.algebra import regression as fits

measure = jax.jit(moments.measure, static_argnames="unitwise")
rng = np.random.default_rng(0)
X = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 3
T = np.maximum(X, 0) @ rng.normal(size=(6, 4)) - 1


def moments(x, t, **kwargs):
    return measure(jnp.float32(x), jnp.float32(t), **kwargs)


def predicted(fit, x):
    return x @ fit.kernel + fit.bias


def scores(want, got):
    missed = ((want - got) ** 2).sum()
    centred = want - want.mean(0)
    return np.sqrt(missed / (want**2).sum()), 1 - missed / (centred**2).sum()


def ridge_regression(x, t, ridge):
    """Kernel of the ridge regression on standardised inputs, in float64 and by another route."""
    deviation = x.std(0)
    rows = np.concatenate([(x - x.mean(0)) / deviation, np.sqrt(ridge * len(x)) * np.eye(len(x.T))])
    targets = np.concatenate([t - t.mean(0), np.zeros((len(x.T), len(t.T)))])
    return np.linalg.lstsq(rows, targets, rcond=None)[0] / deviation[:, None]


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
def test_least_squares_equals_standardized_ridge(ridge):
    fit = fits.least_squares(moments(X, T), ridge)
    xc = X - X.mean(0)
    cov = xc.T @ xc / len(X)
    want = xc @ ridge_regression(X, T, ridge) + T.mean(0)
    np.testing.assert_allclose(predicted(fit, X), want, atol=1e-4)
    root = cov + ridge * np.diag(np.diag(cov))
    np.testing.assert_allclose(fit.root.T @ fit.root, root, atol=1e-4)
    assert fit.rank == 6


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_least_squares_is_invariant_to_input_units(ridge, offset):
    weights, units = np.ones((6, 9)) / X.std(0)[:, None], np.logspace(-4, 4, 6)
    x = X + offset
    plain = fits.least_squares(moments(x, T), ridge, weights)
    scaled = fits.least_squares(moments(x * units, T), ridge, weights / units[:, None])
    assert scaled.rank == 6
    want = (x - x.mean(0)) @ ridge_regression(x, T, ridge) + T.mean(0)
    for got in (predicted(plain, x), predicted(scaled, x * units)):
        np.testing.assert_allclose(got, want, atol=1e-3 * (1 + (offset > 0)))


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 1e6])
def test_ridge_keeps_the_kernel_near_the_prior(ridge):
    prior = rng.normal(size=(7, 4))
    x = np.concatenate([X, np.full((200, 1), 7.0)], 1)  # the last input never varies
    fit = fits.least_squares(moments(x, T), ridge, prior=prior)
    off, scarce = T - x @ prior, 1 + 30 * 7 / len(x)
    change = ridge_regression(X, off, ridge * scarce)
    want = (X - X.mean(0)) @ change + off.mean(0) + x @ prior
    np.testing.assert_allclose(predicted(fit, x), want, atol=2e-3)
    np.testing.assert_array_equal(fit.kernel[-1], prior[-1])
    if ridge == 1e6:
        np.testing.assert_allclose(fit.kernel, prior, atol=1e-3)


def test_least_squares_penalizes_inputs_that_hardly_act():
    x = np.concatenate([X, np.zeros((len(X), 1))], 1)
    x[3, -1] = 1e-3  # one faint value of an input that may be 1 later on
    weights = rng.normal(size=(7, 9))
    alone = fits.least_squares(moments(x, T), 1e-3)
    fit = fits.least_squares(moments(x, T), 1e-3, weights)
    assert np.abs(alone.kernel[-1]).max() > 100
    assert np.abs(fit.kernel[-1]).max() < 1
    np.testing.assert_allclose(fit.kernel[:-1], alone.kernel[:-1], atol=0.2)


def test_least_squares_recovers_a_linear_target():
    kernel, bias = rng.normal(size=(6, 4)), rng.normal(size=4)
    fit = fits.least_squares(moments(X, X @ kernel + bias), 0.0)
    np.testing.assert_allclose(fit.kernel, kernel, atol=2e-3)
    np.testing.assert_allclose(fit.bias, bias, atol=5e-3)


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_least_squares_of_rank_deficient_inputs(ridge):
    few = X[:4]
    fit = fits.least_squares(moments(few, T[:4]), ridge)
    assert fit.rank == 3
    np.testing.assert_allclose(predicted(fit, few), T[:4], atol=0.05)
    assert np.abs(fit.kernel).max() < 20
    doubled = np.concatenate([X, X[:, :2], np.full((200, 1), 7.0)], 1)
    fit = fits.least_squares(moments(doubled, T), ridge)
    assert fit.rank == 6
    assert np.abs(fit.kernel[-1]).max() == 0
    assert fits.constant_inputs(moments(doubled, T)).sum() == 1
    whole = fits.least_squares(moments(X, T), ridge)
    np.testing.assert_allclose(predicted(fit, doubled), predicted(whole, X), atol=0.1)


def test_least_squares_of_constant_tokens_is_their_mean():
    fit = fits.least_squares(moments(np.ones((3, 6)), np.full((3, 4), 2.0)), 1e-3)
    np.testing.assert_array_equal(fit.kernel, 0)
    np.testing.assert_allclose(fit.bias, 2)
    assert fits.score(moments(np.ones((3, 6)), np.full((3, 4), 2.0)), *fit[:2]) == (0.0, None)


def test_per_unit_regression_of_live_and_dead_units():
    a = np.maximum(X, 0)
    a[:, 0], x = 0, X.copy()
    x[:, 1] = a[:, 1] = 5.0
    got = fits.per_unit_regression(moments(x, a, unitwise=True))
    for unit in (2, 3, 4, 5):
        gain, offset = np.polyfit(x[:, unit], a[:, unit], 1)
        np.testing.assert_allclose((got.gain[unit], got.offset[unit]), (gain, offset), atol=1e-4)
    np.testing.assert_allclose(got.gain[:2], 0, atol=1e-6)
    np.testing.assert_allclose(got.offset[:2], (0, 5), atol=1e-6)
    assert got.dead.tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("unitwise", [False, True])
def test_score_equals_direct_errors(unitwise):
    t = np.maximum(X, 0) if unitwise else T
    kernel, bias = (rng.normal(size=6), rng.normal(size=6)) if unitwise else (T.T @ T, T[0])
    if not unitwise:
        kernel = rng.normal(size=(6, 4))
    got = X * kernel + bias if unitwise else X @ kernel + bias
    np.testing.assert_allclose(
        fits.score(moments(X, t, unitwise=unitwise), kernel, bias), scores(t, got), rtol=1e-4
    )
    held_out = moments(X[:0], t[:0], unitwise=unitwise)
    assert fits.score(held_out, kernel, bias) == (None, None)


def test_low_rank_factors_are_optimal_in_the_metric():
    x = X * np.array([10, 1, 1, 1, 0.1, 0.01])
    fit = fits.least_squares(moments(x, T), 0.0)
    values, rows = fits.svd_in_metric(fit.kernel, fit.root)
    centred = x - x.mean(0)
    whole = centred @ fit.kernel
    _, singular, right = np.linalg.svd(whole, full_matrices=False)
    for rank in (1, 2, 3):
        first, second = fits.low_rank_factors(fit.kernel, rows[:rank])
        assert first.shape == (6, rank) and second.shape == (rank, 4)
        np.testing.assert_allclose(
            np.linalg.norm(first, axis=0), np.linalg.norm(second, axis=1), rtol=1e-6
        )
        best = whole @ right[:rank].T @ right[:rank]
        np.testing.assert_allclose(centred @ first @ second, best, atol=1e-2)
        error = np.linalg.norm(whole - best) / np.linalg.norm(whole)
        np.testing.assert_allclose(fits.truncation_errors(values)[rank], error, rtol=1e-3)
    assert fits.truncation_errors(values)[[0, -1]].tolist() == [1, 0]


def test_rank_deficiency_notes_scarce_data():
    assert fits.rank_deficiency(100, 512, 99) == ["100 tokens for 512 inputs: give more data"]
    assert fits.rank_deficiency(1000, 512, 300) == ["inputs have rank 300 of 512"]
    assert fits.rank_deficiency(1000, 512, 512) == []
