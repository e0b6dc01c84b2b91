"""Kernels of low rank: which factors, what runs, and what becomes of them in a later collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import (
    CalibrationData,
    CollapseError,
    LeastSquares,
    LowRank,
    Params,
    RelativeError,
    Remove,
    Units,
    calibrate,
    collapse,
    collapse_sequential,
    count_parameters,
    find_sites,
    plan_fits,
)
from lcjax.planning.plan_file import PlanFile
from tests.helpers.narrowing import DATA, MODELS, X, chain, error, gated, models, narrowed
from tests.helpers.tolerance import assert_close
from tests.helpers.trees import with_slopes

RANKS = (1, 2, 3)


def multiplied(variables):
    """Returns the tree in which each factor is multiplied into the Dense that it is before."""

    def node(tree):
        if not isinstance(tree, dict):
            return tree
        tree = {name: node(child) for name, child in tree.items()}
        for name in [name for name in tree if name.endswith("_in")]:
            last = tree[name.removesuffix("_in")]
            last["kernel"] = tree.pop(name)["kernel"] @ last["kernel"]
        return tree

    return node(jax.tree.map(np.asarray, variables))


@models
def test_what_runs_is_the_product_of_the_factors(name):
    model, variables = MODELS[name]()
    compact, report = narrowed(model, variables, LowRank(2))
    factors = [path for path in report.new_leaves if "_in/" in path]
    assert factors and report.collapsed == () and report.units == {}
    assert report.parameters_after == count_parameters(compact) < report.parameters_before
    assert_close(
        model.apply(compact, X), model.apply(multiplied(compact), X), dtype=np.float32, terms=500
    )


def test_the_first_kernel_changes_the_output_of_its_layer_least():
    model, variables = chain((12, 5))
    compact, report = narrowed(model, variables, LowRank(3))
    kernel = np.float64(variables["params"]["dense_0"]["kernel"])
    new = multiplied(compact)["params"]["dense_0"]
    x = np.float64(X)
    values = np.linalg.svd((x - x.mean(0)) @ kernel, compute_uv=False)
    changed = np.linalg.norm((x - x.mean(0)) @ (kernel - new["kernel"]))
    assert changed == pytest.approx(np.sqrt((values[3:] ** 2).sum()), rel=1e-3)
    z = x @ kernel + np.float64(variables["params"]["dense_0"]["bias"])
    np.testing.assert_allclose((x @ new["kernel"] + new["bias"]).mean(0), z.mean(0), atol=1e-4)
    assert report.fits[0].rank == 3 and report.fits[0].truncation > 0


def test_the_last_kernel_is_fitted_to_what_the_factors_before_it_give():
    model, variables = chain((12, 5))
    compact, _ = collapse_sequential(model.apply, variables, DATA, fit=LowRank(2, ridge=0.0))
    p = jax.tree.map(np.float64, multiplied(compact)["params"])
    h = np.float64(hidden(compact))
    t = np.float64(model.apply(variables, X))
    dh, dt = h - h.mean(0), t - t.mean(0)
    whole = np.linalg.lstsq(dh, dt, rcond=None)[0]
    rows = np.linalg.svd(dh @ whole)[2][:2]
    best = np.linalg.norm(dt - dh @ whole @ rows.T @ rows)
    assert np.linalg.norm(dt - dh @ p["dense_1"]["kernel"]) == pytest.approx(best, rel=1e-3)
    once, _ = narrowed(model, variables, LowRank(2, ridge=0.0))
    assert error(model, compact, variables) < error(model, once, variables)


def hidden(variables):
    """Returns the hidden units of a pair."""
    model, _ = chain((12, 5))
    _, state = model.apply(variables, X, capture_intermediates=True)
    return state["intermediates"]["act_0"]["__call__"][0]


@models
def test_a_higher_rank_is_never_worse(name):
    model, variables = MODELS[name]()
    found = [narrowed(model, variables, LowRank(rank))[1].fits for rank in RANKS]
    missed = [max(fit.truncation or 0 for fit in fits) for fits in found]
    assert missed == sorted(missed, reverse=True)


def test_a_rank_that_saves_nothing_leaves_the_model():
    model, variables = chain()
    compact, report = narrowed(model, variables, LowRank(40))
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, compact, variables))
    assert report.new_leaves == () and "kernels stay as they are" in str(report)


def test_units_beside_factors_are_no_standard_model():
    model, variables = chain()
    fits = {"act_0": Units(4), "act_1": LowRank(2)}
    _, report = collapse_sequential(model.apply, variables, DATA, fit=fits)
    assert report.units.keys() == {"act_0"} and report.ranks == {"act_1": 2}
    assert report.hidden_width is None and "standard model" not in str(report)


@pytest.mark.parametrize("make", [chain, gated], ids=["chain", "gated"])
def test_an_exact_collapse_multiplies_all_factors(make):
    model, variables = make()
    compact, _ = narrowed(model, variables, LowRank(2))
    linear = with_slopes(compact, 1.0)
    whole, report = collapse(linear)
    assert_close(model.apply(whole, X), model.apply(linear, X), dtype=np.float32, terms=500)
    assert report.parameters_after == count_parameters(whole)
    assert not any("act" in name or "gate" in name for name in whole["params"])


@pytest.mark.parametrize("again", [Units(4), LeastSquares() + Units(3), Remove(), LowRank(1)])
@pytest.mark.parametrize("make", [chain, gated], ids=["chain", "gated"])
def test_a_model_of_low_rank_is_made_smaller_again(make, again):
    model, variables = make()
    compact, _ = collapse_sequential(model.apply, variables, DATA, fit=LowRank(2))
    smaller, report = collapse_sequential(model.apply, compact, DATA, fit=again)
    assert report.parameters_before == count_parameters(compact)
    assert report.parameters_after == count_parameters(smaller) < count_parameters(compact)
    assert error(model, smaller, compact) < 1.05
    assert [site.path for site in find_sites(smaller)] == (
        [] if again == Remove() else [site.path for site in find_sites(compact)]
    )


def test_a_plan_takes_low_rank_where_kernels_have_it(tmp_path):
    model, variables = chain((40, 5))
    params = dict(variables["params"])
    for name in ("dense_0", "dense_1"):
        u, s, v = np.linalg.svd(params[name]["kernel"], full_matrices=False)
        params[name] = params[name] | {"kernel": jnp.asarray((u * s)[:, :2] @ v[:2])}
    variables = {"params": params}
    candidates = [Units(20), LeastSquares(), LowRank(2)]
    plan = plan_fits(
        model.apply, variables, DATA, budget=Params(0.75), metric=RelativeError(),
        candidates=candidates, tolerance=1,
    )  # fmt: skip
    assert plan.fits == {"act_0": LowRank(2)} and "kernels of rank 2" in str(plan)
    plan.save(tmp_path / "plan.json")
    assert PlanFile.load(tmp_path / "plan.json").fits == plan.fits
    compact, _ = collapse_sequential(model.apply, variables, DATA, fit=plan.fits)
    assert count_parameters(compact) == plan.measured.parameters


def test_low_precision_stays_low():
    model, variables = chain()
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.ndim else a, variables)
    data = CalibrationData([X.astype(jnp.bfloat16)], progress=False)
    compact, _ = collapse_sequential(model.apply, half, data, fit=LowRank(2))
    kinds = {leaf.dtype for leaf in jax.tree.leaves(compact) if leaf.ndim}
    assert kinds == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("make", [chain, gated], ids=["chain", "gated"])
def test_ranks_are_measured_as_one_calibration_gives_them(make):
    model, variables = make()
    fits = [LowRank(1), LowRank(2), LeastSquares()]
    plan = plan_fits(
        model.apply, variables, DATA, budget=Params(0.9), metric=RelativeError(), candidates=fits
    )
    y = np.float64(model.apply(variables, X))
    for site in plan.table.sites:
        for option in site.options[1:3]:
            compact, report = narrowed(model, variables, option.fit, site.site)
            missed = ((y - np.float64(model.apply(compact, X))) ** 2).sum() / (y**2).sum()
            assert option.change.drop == pytest.approx(missed, rel=1e-3)
            assert option.change.parameters == report.parameters_after - report.parameters_before


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "auto", None])
def test_a_rank_that_is_no_number_is_refused(rank):
    with pytest.raises(ValueError, match="rank is"):
        LowRank(rank)


def test_a_site_with_a_linear_map_is_refused():
    model, variables = chain((12, 5))
    mixed, _ = narrowed(model, variables, LeastSquares() + Units(7))
    with pytest.raises(CollapseError, match="act_0: got a linear map next to the units"):
        narrowed(model, mixed, LowRank(2))


def test_moments_of_some_units_are_refused():
    model, variables = chain((12, 5))
    stats = calibrate(model.apply, variables, DATA, fit=Units(3, candidates=4))
    with pytest.raises(CollapseError, match="moments of some of its 12 units"):
        collapse(variables, fit=LowRank(2), calibration=stats)


@pytest.mark.parametrize("missing", ["dense_0", "dense_1"])
def test_a_chain_without_a_dense_beside_its_factor_is_half_collapsed(missing):
    model, variables = chain((12, 5))
    compact, _ = narrowed(model, variables, LowRank(2))
    del compact["params"][missing]
    with pytest.raises(CollapseError, match="half collapsed"):
        model.apply(compact, X)


@pytest.mark.parametrize("missing", ["gate", "up", "down", "act"])
def test_a_gated_unit_without_a_child_beside_its_factor_is_half_collapsed(missing):
    model, variables = gated()
    compact, _ = narrowed(model, variables, LowRank(2))
    del compact["params"][missing]
    with pytest.raises(CollapseError, match="half collapsed"):
        model.apply(compact, X)


def test_factors_that_do_not_compose_are_named():
    model, variables = chain((12, 5))
    compact, _ = narrowed(model, variables, LowRank(2))
    compact["params"]["dense_0_in"]["kernel"] = jnp.ones((6, 3))
    with pytest.raises(CollapseError, match="dense_0: kernel .* does not compose with dense_0_in"):
        find_sites(compact)
