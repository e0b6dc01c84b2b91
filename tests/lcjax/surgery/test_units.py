"""Hidden units that stay: which, with what last kernel, and what runs afterwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import (
    CalibrationData,
    CollapseError,
    LeastSquares,
    Remove,
    Units,
    calibrate,
    collapse,
    collapse_sequential,
    count_parameters,
    find_sites,
)
from tests.helpers.narrowing import DATA, MIXED, MODELS, X, chain, error, models, narrowed
from tests.helpers.tolerance import assert_close
from tests.helpers.trees import random_chain, with_slopes


@models
def test_all_units_are_the_model_itself(name):
    model, variables = MODELS[name]()
    (first, *_) = find_sites(variables)
    compact, report = narrowed(model, variables, Units(first.d_hidden), first)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, compact, variables))
    assert report.units == {} and report.new_leaves == () and report.fits[0].error < 1e-3


@models
@pytest.mark.parametrize("linear", [False, True], ids=["alone", "linear"])
def test_more_units_never_explain_less(name, linear):
    model, variables = MODELS[name]()
    stats = calibrate(model.apply, variables, DATA, fit=Units(1))
    (first, *_) = find_sites(variables)
    missed = []
    for k in (1, 3, 5, 8, 11):
        fit = Units(k, linear=linear, ridge=0.0)
        compact, report = collapse(variables, first, fit, calibration=stats)
        missed.append(report.fits[0].error)
        assert [len(units) for units in report.units.values()] == [k]
    assert all(later <= earlier + 2e-3 for earlier, later in zip(missed, missed[1:], strict=False))


def stacked_ridge(groups, t, rho, prior):
    """Ridge regression in float64 on inputs side by side, given with the kernels that read them.

    The kernel that the ridge keeps it near to is the prior; the fewer the rows, the nearer.
    """
    rho *= 1 + 30 * len(prior) / len(t)
    xs = [np.asarray(x, np.float64) for x, _ in groups]
    penalties = []
    for x, (_, weights) in zip(xs, groups, strict=True):
        flows = x.var(0) * (np.asarray(weights, np.float64) ** 2).sum(1)
        penalties.append(rho * x.var(0) * np.maximum(1, 0.3 * flows.mean() / flows))
    x, t = np.concatenate(xs, 1), np.asarray(t, np.float64)
    dx, dt = x - x.mean(0), t - t.mean(0)
    gram = dx.T @ dx / len(x) + np.diag(np.concatenate(penalties))
    kernel = prior + np.linalg.solve(gram, dx.T @ (dt - dx @ prior) / len(x))
    return kernel, t.mean(0) - x.mean(0) @ kernel


@pytest.mark.parametrize("name", ["pair", "batch norm", "gated"])
@pytest.mark.parametrize("linear", [False, True], ids=["alone", "linear"])
def test_ridge_equals_a_float64_solution_of_the_stacked_inputs(name, linear):
    model, variables = MODELS[name]()
    compact, report = narrowed(model, variables, Units(7, linear=linear, ridge=0.01))
    (units,) = report.units.values()
    old, new = variables["params"], compact["params"]
    last, bypass = ("down", "bypass") if name == "gated" else ("dense_1", "bypass_0")
    readers = ["up", "gate"] if name == "gated" else ["dense_0"]
    _, seen = model.apply(
        variables, X, capture_intermediates=True, mutable=["intermediates", "batch_stats"]
    )
    inner = {"pair": "act_0", "batch norm": "norm_0", "gated": "act"}[name]
    h = seen["intermediates"][inner]["__call__"][0]
    prior = np.asarray(old[last]["kernel"], np.float64)[units]
    groups = [(h[:, units], prior)]
    if linear:
        groups.insert(0, (X, np.concatenate([old[each]["kernel"] for each in readers], 1)))
        prior = np.concatenate([np.zeros((X.shape[1], prior.shape[1])), prior])
    kernel, bias = stacked_ridge(groups, model.apply(variables, X), 0.01, prior)
    assert_close(new[last]["kernel"], kernel[-7:], dtype=np.float32, terms=20_000)
    assert_close(new[bypass]["bias"], bias, dtype=np.float32, terms=20_000)
    if linear:
        assert_close(new[bypass]["kernel"], kernel[:-7], dtype=np.float32, terms=20_000)
    else:
        assert set(new[bypass]) == {"bias"}


@pytest.mark.parametrize("linear", [False, True], ids=["alone", "linear"])
def test_a_large_ridge_keeps_the_rows_of_the_model(linear):
    model, variables = MODELS["pair"]()
    compact, report = narrowed(model, variables, Units(7, linear=linear, ridge=1e6))
    (units,) = report.units.values()
    rows = np.asarray(variables["params"]["dense_1"]["kernel"])[units]
    np.testing.assert_allclose(compact["params"]["dense_1"]["kernel"], rows, atol=1e-5)
    mean, wanted = (model.apply(each, X).mean(0) for each in (compact, variables))
    np.testing.assert_allclose(mean, wanted, atol=1e-5)


@pytest.mark.slow
@models
def test_no_unit_next_to_a_linear_map_is_least_squares(name):
    model, variables = MODELS[name]()
    linear, first = narrowed(model, variables, LeastSquares())
    compact, second = narrowed(model, variables, LeastSquares() + Units(0))
    jax.tree.map(np.testing.assert_array_equal, compact, linear)
    assert first.collapsed == second.collapsed
    hidden = calibrate(model.apply, variables, DATA, find_sites(variables)[:1], Units(3))
    if name in ("pair", "gated"):
        compact, _ = collapse(variables, fit=Units(0, linear=True), calibration=hidden)
        jax.tree.map(lambda a, b: assert_close(a, b, dtype="float32", terms=999), compact, linear)


@pytest.mark.slow
@models
def test_remove_leaves_the_mean_output(name):
    model, variables = MODELS[name]()
    for fit in (Remove(), Units(0)):
        compact, report = narrowed(model, variables, fit)
        (bypass,) = compact["params"].values()
        assert set(compact) == {"params"} and set(bypass) == {"bias"}
        mean = np.float64(model.apply(variables, X)).mean(0)
        assert_close(model.apply(compact, X), np.tile(mean, (400, 1)), dtype="float32", terms=99)
        assert report.removed == report.collapsed == find_sites(variables).paths
        assert report.flops_after == 0 and report.parameters_after == len(mean)
        assert "removed" in str(report)


@models
@pytest.mark.parametrize("fit", [Units(7), MIXED], ids=["alone", "linear"])
def test_sizes_and_leaves_of_the_report_are_those_of_the_tree(name, fit):
    model, variables = MODELS[name]()
    compact, report = narrowed(model, variables, fit)
    sites = find_sites(compact)
    assert [site.d_hidden for site in sites] == [7] * len(sites)
    assert report.parameters_before == count_parameters(variables)
    assert report.parameters_after == count_parameters(compact)
    kernels = [leaf for leaf in jax.tree.leaves(compact["params"]) if leaf.ndim == 2]
    assert report.flops_after == 2 * sum(leaf.size for leaf in kernels)
    old, new = (
        dict(jax.tree_util.tree_leaves_with_path(t["params"])) for t in (variables, compact)
    )
    changed = {"/".join(k.key for k in path) for path in new if new[path] is not old.get(path)}
    gone = {"/".join(k.key for k in path) for path in old if path not in new}
    assert set(report.new_leaves) == changed and set(report.removed_leaves) == gone
    form = "7 of 12 units and a linear map" if fit.linear else "7 of 12 units"
    assert form in str(report) and report.narrowed[0].count == 7
    assert report.hidden_width == (None if fit.linear else 7)
    line = "every MLP has 7 hidden units: a standard model of that width, whose tree lcjax.without"
    assert (line in str(report)) == (not fit.linear)


def test_model_with_a_site_of_all_its_units_is_standard_where_they_are_as_many():
    model, variables = random_chain((12, 7, 3), 4)
    first, second = find_sites(variables).paths
    data = CalibrationData([X[:, :4]], progress=False)
    for width, standard in ((7, 7), (5, None)):
        fits = {first: Units(width), second: Units(7)}
        _, report = collapse_sequential(model.apply, variables, data, fit=fits)
        assert report.hidden_width == standard


def test_model_with_a_site_that_stays_is_no_standard_one():
    model, variables = chain()
    first, *others = find_sites(variables)
    _, report = narrowed(model, variables, Units(7), first)
    assert others and len(report.narrowed) == 1 and report.hidden_width is None


@models
def test_kept_units_are_those_of_the_model(name):
    model, variables = MODELS[name]()
    compact, report = narrowed(model, variables, Units(7))
    (site, units), *_ = report.units.items()
    first, norm = ("up", "") if name == "gated" else ("dense_0", "norm_0")
    names = [first, "gate"] if name == "gated" else [first]
    for module in names:
        for leaf, array in compact["params"][module].items():
            np.testing.assert_array_equal(array, variables["params"][module][leaf][..., units])
    for collection in ("params", "batch_stats"):
        for leaf, array in compact.get(collection, {}).get(norm, {}).items():
            np.testing.assert_array_equal(array, variables[collection][norm][leaf][units])
    assert (np.diff(units) > 0).all()


@pytest.mark.parametrize("name", ["chain", "chain with norms"])
@pytest.mark.parametrize("fit", [Units(7), MIXED], ids=["alone", "linear"])
@pytest.mark.slow
def test_neighbours_in_one_pass_and_one_after_another(name, fit):
    model, variables = MODELS[name]()
    compact, _ = narrowed(model, variables, fit)
    in_turn, report = collapse_sequential(model.apply, variables, DATA, fit=fit)
    assert jax.tree.map(jnp.shape, compact) == jax.tree.map(jnp.shape, in_turn)
    assert error(model, in_turn, variables) <= 1.02 * error(model, compact, variables) < 0.5
    assert error(model, in_turn, variables) < error(model, *_least_squares(model, variables))


def _least_squares(model, variables):
    return narrowed(model, variables, LeastSquares())[0], variables


def test_dead_units_go_without_loss():
    model, variables = chain((12, 5))
    dense = variables["params"]["dense_0"]
    dense["kernel"][:, 3:8] = 0  # constant units
    variables = with_slopes(variables, 0.0)
    dense["bias"][9] = -100.0  # never above 0
    compact, report = narrowed(model, variables, Units(6, ridge=0.0))
    assert sorted(report.units["act_0"]) == [0, 1, 2, 8, 10, 11]
    assert_close(
        model.apply(compact, X), model.apply(variables, X), dtype=np.float32, terms=100_000
    )
    assert "6 of 12 units never vary" in str(report)


def test_an_output_of_few_units_is_found_again():
    model, variables = chain((12, 5))
    kernel = variables["params"]["dense_1"]["kernel"]
    kernel[[0, 1, 4, 5, 7, 8, 9, 11]] = 0
    compact, report = narrowed(model, variables, Units(4, ridge=0.0))
    assert sorted(report.units["act_0"]) == [2, 3, 6, 10]
    assert_close(
        model.apply(compact, X), model.apply(variables, X), dtype=np.float32, terms=100_000
    )


@pytest.mark.slow
def test_each_site_has_a_fit_of_its_own():
    model, variables = chain((12, 11, 10, 5))
    fits = {"act_0": LeastSquares() + Units(7), "act_1": LeastSquares(), "act_2": Units(6)}
    compact, report = collapse_sequential(model.apply, variables, DATA, fit=fits)
    shapes = {
        name: child["kernel"].shape
        for name, child in compact["params"].items()
        if "kernel" in child
    }
    assert shapes == {"dense_0": (6, 7), "bypass_0": (6, 6), "dense_2": (7, 6), "dense_3": (6, 5)}
    assert report.collapsed == ("act_1",) and list(report.units) == ["act_0", "act_2"]
    assert report.parameters_after == count_parameters(compact)
    assert [fit.sites for fit in report.fits] == [("act_0",), ("act_1",), ("act_2",)]
    assert error(model, compact, variables) < 0.5
    only, report = collapse_sequential(model.apply, variables, DATA, fit={"act_1": Units(6)})
    assert [skip.site for skip in report.skipped] == ["act_0", "act_2"]
    assert only["params"]["dense_1"]["kernel"].shape == (12, 6)
    with pytest.raises(ValueError, match="expected one of the two"):
        collapse_sequential(model.apply, variables, DATA, "act_0", {"act_1": Units(6)})
    with pytest.raises(CollapseError, match="no_site"):
        collapse_sequential(model.apply, variables, DATA, fit={"no_site": Units(6)})
