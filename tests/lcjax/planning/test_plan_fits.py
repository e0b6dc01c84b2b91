"""Planning a fit for each site: measured alone, chosen, carried out, refined, on real models."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from lcjax import (
    CalibrationData,
    Candidates,
    CollapsibleGLU,
    CollapsibleMLP,
    FitPlan,
    KLDivergence,
    Latency,
    LeastSquares,
    MaxDrop,
    Memory,
    Params,
    RelativeError,
    Remove,
    Units,
    collapse_sequential,
    collapsible,
    count_parameters,
    plan_fits,
)
from lcjax.errors import CollapseError
from lcjax.planning.measuring.carry_out import Setting, carry_out
from lcjax.planning.measuring.options import collect_for_fits
from lcjax.structure.params_tree import ParamsTree
from tests.helpers.trees import random_chain

X = np.random.default_rng(0).normal(size=(384, 8)).astype(np.float32)
DATA = CalibrationData([X[:192], X[192:]], holdout=0.25, progress=False)
FEW = [LeastSquares(), Units(4), Units(8), Units(4, linear=True), Remove()]


class Blocks(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + CollapsibleMLP((16, 8), nn.gelu, name="block_0")(x)
        x = x + CollapsibleGLU(16, 8, nn.silu, name="block_1")(x)
        return nn.Dense(3, name="head")(x)


MODEL = Blocks()


@pytest.fixture(scope="module")
def variables():
    tree = jax.jit(MODEL.init)(jax.random.key(1), X[:1])
    return jax.tree.map(lambda leaf: leaf * 2, tree)


@pytest.fixture(scope="module")
def half(variables):
    return plan_fits(
        MODEL.apply, variables, DATA, budget=Params(0.5), candidates=FEW, metric=KLDivergence(DATA)
    )


def divergence(variables, tree):
    rows = np.concatenate([batch for batch in DATA.batches])
    p, q = (jax.nn.log_softmax(MODEL.apply(each, rows)) for each in (variables, tree))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.slow
def test_the_plan_is_carried_out_by_a_sequential_collapse(variables, half):
    compact, report = collapse_sequential(MODEL.apply, variables, DATA, fit=half.fits)
    assert half.measured.parameters == report.parameters_after == count_parameters(compact)
    assert half.measured.parameters <= 0.5 * count_parameters(variables)
    assert half.measured.drop == pytest.approx(divergence(variables, compact), rel=1e-2)
    assert half.unmet == () and half.baseline == 0


@pytest.mark.slow
def test_each_fit_is_measured_alone(variables, half):
    assert [site.site for site in half.table.sites] == ["block_0/act_0", "block_1/act"]
    for site in half.table.sites:
        assert [option.fit for option in site.options] == [None, *FEW]
        for option in site.options[1:]:
            fit = {site.site: option.fit}
            compact, report = collapse_sequential(MODEL.apply, variables, DATA, fit=fit)
            drop = divergence(variables, compact)
            assert option.change.drop == pytest.approx(drop, rel=1e-2, abs=1e-6)
            saved = report.parameters_after - report.parameters_before
            assert option.change.parameters == saved
            assert option.change.flops == report.flops_after - report.flops_before
            assert option.held_out_r2 == pytest.approx(report.fits[0].held_out_r2, abs=1e-4)


@pytest.mark.slow
def test_a_metric_of_the_user_is_asked_by_trees_of_one_form(variables):
    shapes = set()

    def metric(tree):
        shapes.add(str(jax.tree.map(np.shape, tree)))
        return -divergence(variables, tree)

    found = plan_fits(
        MODEL.apply, variables, DATA, budget=MaxDrop(0.02), candidates=FEW, metric=metric
    )
    assert found.metric == "metric" and found.unmet == () and found.measured.drop <= 0.02
    assert len(shapes) <= 3 + len(found.rounds)  # the deep tree, one form a site, and the results
    others = [each for each in found.pareto_front if each.predicted.drop <= 0.02]
    assert found.predicted.parameters <= min(each.predicted.parameters for each in others) * 1.2


@pytest.mark.slow
def test_time_and_memory_are_measured(variables):
    found = plan_fits(
        MODEL.apply,
        variables,
        DATA,
        budget=[Memory(0.7), Latency(ms=1e4, batch=X[:32])],
        candidates=[LeastSquares(), Remove()],
        metric=RelativeError(),
    )
    deep = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert found.table.deep.bytes == deep and found.measured.bytes <= 0.7 * deep
    assert found.table.deep.ms > 0 and found.measured.ms > 0 and found.unmet == ()
    for site in found.table.sites:
        assert all(np.isfinite(option.change.ms) for option in site.options)


def test_the_first_site_is_fitted_from_the_calibration(variables, monkeypatch):
    passes = []

    def counted(model, data, fits, now=None):
        passes.append(list(fits))
        return collect_for_fits(model, data, fits, now)

    monkeypatch.setattr("lcjax.planning.measuring.carry_out.collect_for_fits", counted)
    budget, candidates = Params(0.5), [LeastSquares(), Units(8)]
    found = plan_fits(
        MODEL.apply, variables, DATA, budget=budget, candidates=candidates, tolerance=1e9
    )
    assert len(found.rounds) == 1 and len(found.fits) >= 2
    assert passes == [[site] for site in list(found.fits)[1:]]


@pytest.mark.slow
def test_a_model_faster_than_predicted_makes_room_for_a_larger_one(monkeypatch):
    """Each fit alone takes the time of its parameters; all together take less than their sum."""

    def times(share):
        return lambda run, trees, inputs: {
            name: 1e-3 * share * count_parameters(tree) for name, tree in trees.items()
        }

    monkeypatch.setattr("lcjax.planning.measuring.latency.times_of", times(1))
    monkeypatch.setattr("lcjax.planning.measuring.carry_out.times_of", times(0.7))
    model = CollapsibleMLP((32, 32, 32, 4), nn.relu)
    variables = jax.jit(model.init)(jax.random.key(0), X[:1])
    candidates = [Units(k) for k in range(2, 32, 2)]
    found = plan_fits(
        model.apply, variables, DATA, budget=Latency(0.5), candidates=candidates, tolerance=1
    )
    assert found.unmet == () and 2 <= len(found.rounds) <= 4
    first, last = found.rounds[0].measured.ms, found.measured.ms
    assert 0.3 < first / found.table.deep.ms < 0.36
    assert 0.45 < last / found.table.deep.ms <= 0.5


def test_a_choice_repeats_only_what_differs_from_the_one_before(variables, half, monkeypatch):
    model, sites = ParamsTree(variables, MODEL.apply), half.table.sites
    setting = Setting(model, MODEL.apply, DATA, lambda trees: [0.0] * len(trees), 0.0, None)
    passes = []

    def collect(model, data, fits, now):
        passes.append(*fits)
        return collect_for_fits(model, data, fits, now)

    monkeypatch.setattr("lcjax.planning.measuring.carry_out.collect_for_fits", collect)
    first, last = ([i for i, each in enumerate(site.options) if each.fit] for site in sites)
    full, whole = carry_out(setting, half.table, (first[0], last[0]), [])
    steps, _ = carry_out(setting, half.table, (first[0], last[1]), [])
    assert passes == [sites[0].site, sites[1].site] * 2
    again, usage = carry_out(setting, half.table, (first[0], last[0]), steps)
    assert passes[4:] == [sites[1].site] and usage == whole and again[0] is steps[0]
    trees = [each[-1].after.variables for each in (again, full)]
    jax.tree.map(np.testing.assert_array_equal, *trees)


@pytest.mark.slow
def test_a_plan_that_was_wrong_is_refined_around_its_choice():
    """Two blocks that each make up for the other: alone both are costly, together free."""
    model, x = Blocks(), X
    variables = jax.jit(model.init)(jax.random.key(3), x[:1])
    variables = jax.tree.map(lambda leaf: leaf * 3, variables)
    found = plan_fits(
        model.apply, variables, DATA, budget=Params(0.45), candidates=FEW, tolerance=0.0
    )
    assert 1 <= len(found.rounds) <= 4
    choices = [each.choice for each in found.rounds]
    assert len(set(choices)) == len(choices) and found.choice in choices
    assert found.measured.drop == min(each.measured.drop for each in found.rounds)
    if len(found.rounds) > 1:
        assert "differs by more than 0%" in str(found)


@pytest.mark.parametrize(
    ("budget", "candidates"),
    [(0.6, Candidates(multiple_of=4)), (0.2, [LeastSquares(), Remove()])],
    ids=["mixed", "one matrix for both"],
)
@pytest.mark.slow
def test_chains_of_several_sites_are_planned(budget, candidates):
    model = CollapsibleMLP((16, 16, 4), nn.relu)
    variables = jax.jit(model.init)(jax.random.key(0), X[:1])
    found = plan_fits(model.apply, variables, DATA, budget=Params(budget), candidates=candidates)
    compact, report = collapse_sequential(model.apply, variables, DATA, fit=found.fits)
    assert found.measured.parameters == count_parameters(compact) == report.parameters_after
    assert found.measured.flops == 2 * sum(
        leaf.size for leaf in jax.tree.leaves(compact) if leaf.ndim == 2
    )
    assert found.unmet == () and found.measured.parameters <= budget * count_parameters(variables)
    listed = not isinstance(candidates, Candidates)
    assert any("Remove" in note and "left out" in note for note in found.notes) == listed


@pytest.mark.slow
def test_a_function_is_planned_as_the_same_model_of_modules():
    model = CollapsibleMLP((16, 8), nn.gelu)
    variables = jax.jit(model.init)(jax.random.key(2), X[:1])

    def function(params, x):
        first, last = params["dense_0"], params["dense_1"]
        hidden = nn.gelu(x @ first["kernel"] + first["bias"])
        return hidden @ last["kernel"] + last["bias"]

    f = collapsible(function)
    params = {name: variables["params"][name] for name in ("dense_0", "dense_1")}
    call = f.trace(f.init(params, X[:1]), X[:1])
    options = dict(budget=Params(0.6), candidates=FEW, metric=RelativeError())
    got = call.plan_fits(DATA, **options)
    want = plan_fits(model.apply, variables, DATA, **options)
    assert list(got.fits.values()) == list(want.fits.values())
    for ours, theirs in zip(got.table.sites[0].options, want.table.sites[0].options, strict=True):
        assert ours.change.drop == pytest.approx(theirs.change.drop, rel=1e-2, abs=1e-6)
        assert ours.change[1:] == theirs.change[1:]
    compact, _ = call.collapse_sequential(DATA, fit=got.fits)
    assert count_parameters(compact) == got.measured.parameters == want.measured.parameters


@pytest.mark.slow
def test_the_file_of_a_plan_is_of_its_model(variables, half, tmp_path):
    half.save(tmp_path / "plan.json")
    found = FitPlan.load(tmp_path / "plan.json")
    assert found == half
    found.check(variables)
    other = jax.tree.map(lambda leaf: leaf + 1, variables)
    with pytest.raises(CollapseError, match="the plan was made for other weights"):
        found.check(other)


@pytest.mark.slow
def test_bad_arguments_are_refused(variables):
    ask = lambda data=DATA, **options: plan_fits(
        MODEL.apply, variables, data, **{"budget": Params(0.5), "candidates": FEW} | options
    )
    with pytest.raises(ValueError, match="cannot be met by these candidates; the least possible"):
        ask(budget=Params(1))
    with pytest.raises(ValueError, match="cannot be met together"):
        ask(budget=[Params(0.5), MaxDrop(0.0)])
    with pytest.raises(ValueError, match="expected at most its 16 units"):
        ask(candidates=[Units(17)])
    with pytest.raises(ValueError, match="metric returned nan; expected a finite number"):
        ask(metric=lambda tree: float("nan"))
    with pytest.raises(TypeError, match="metric is an int; expected a function"):
        ask(metric=3)
    with pytest.raises(TypeError, match="budget is a float"):
        ask(budget=0.5)
    with pytest.raises(TypeError, match="only once, but each site needs a separate pass"):
        ask(iter([X]))
    with pytest.raises(ValueError, match="tolerance is -1; expected a number of at least 0"):
        ask(tolerance=-1)
    with pytest.raises(CollapseError, match="matches no site|expected"):
        ask(sites="nothing*")


@pytest.mark.slow
def test_a_size_of_sites_that_share_layers_is_kept_to():
    model = CollapsibleMLP((32, 32, 32, 4), nn.relu)
    variables = jax.jit(model.init)(jax.random.key(0), X[:1])
    units = [Units(count) for count in (4, 8, 16)]
    found = plan_fits(model.apply, variables, DATA, budget=Params(0.15), candidates=units)
    assert found.unmet == ()
    assert found.measured.parameters <= 0.15 * count_parameters(variables)


@pytest.mark.slow
def test_a_size_that_sites_sharing_layers_cannot_have_is_an_error():
    model = CollapsibleMLP((32, 32, 4), nn.relu)
    variables = jax.jit(model.init)(jax.random.key(0), X[:1])
    with pytest.raises(ValueError, match="cannot be met by these.*least possible: parameters 2"):
        plan_fits(
            model.apply, variables, DATA, budget=Params(0.05), candidates=[Units(8, linear=True)]
        )


def test_narrow_layers_are_planned_where_multiples_are_those_of_a_gpu(monkeypatch):
    monkeypatch.setattr("lcjax.planning.candidates.multiple_for", lambda backend: 64)
    model, variables = random_chain((32, 32, 2), 2)
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    data = CalibrationData([x], progress=False)
    plan = plan_fits(model.apply, variables, data, budget=Params(0.6))
    assert plan.fits and not plan.unmet
    none = Candidates(linear=False, units=False, linear_and_units=False, remove=False)
    with pytest.raises(
        ValueError, match="leave nothing to try at act_0, act_1. Give a smaller mul"
    ):
        plan_fits(model.apply, variables, data, budget=Params(0.6), candidates=none)
