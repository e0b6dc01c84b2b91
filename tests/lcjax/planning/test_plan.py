import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import (
    CollapseError,
    CollapsibleMLP,
    Count,
    Exact,
    Flops,
    LeastSquares,
    MaxDrop,
    Params,
    PerUnit,
    Plan,
    Skip,
    Units,
    calibrate,
    collapse,
    collapse_sequential,
    plan,
    sensitivity,
)
from lcjax.calibration.fits import Fit
from lcjax.planning import trials
from lcjax.surgery.solvers import solve
from tests.helpers.trees import random_chain, with_slopes

load_digits = pytest.importorskip("sklearn.datasets", reason="extra train").load_digits

X = (load_digits().data / 16).astype(np.float32)[:512]
MODEL = CollapsibleMLP((64, 64, 64, 10), nn.relu)
apply = jax.jit(MODEL.apply)


@pytest.fixture(scope="module")
def variables():
    """Slopes 0.8, 0 and 0.5: how much each site costs follows from them."""
    tree = jax.jit(MODEL.init)(jax.random.key(0), X[:1])
    return with_slopes(tree, {"act_0": 0.8, "act_2": 0.5})


@pytest.fixture(scope="module")
def metric(variables):
    want = apply(variables, X)
    return lambda tree: -float(((apply(tree, X) - want) ** 2).mean())


@pytest.fixture(scope="module")
def whole(variables, metric):
    """The plan that collapses everything."""
    return plan(
        MODEL.apply, variables, metric, [X], budget=Count(3), fit=LeastSquares(sequential=False)
    )


@pytest.mark.slow
def test_sensitivity_measures_each_site_alone(variables, metric):
    costs = sensitivity(MODEL.apply, variables, metric, [X])
    assert [cost.site for cost in costs.costs] == ["act_0", "act_1", "act_2"]
    for cost in costs.costs:
        stats = calibrate(MODEL.apply, variables, [X], cost.site)
        compact, report = collapse(variables, calibration=stats)
        assert cost.metric == pytest.approx(metric(compact), rel=1e-3)
        assert cost.metric_drop == costs.baseline - cost.metric and costs.baseline == 0
        assert cost.parameters == report.parameters_after
        assert cost.held_out_r2 == pytest.approx(report.fits[0].held_out_r2, abs=1e-4)
    assert [cost.site for cost in costs.cheapest_first] == ["act_0", "act_2", "act_1"]
    rows = str(costs).splitlines()
    assert "held-out R²" in rows[0] and "(deep)" in rows[2] and "act_0" in rows[3]
    exact = sensitivity(None, variables, metric, sites=["act_0", "act_2"], fit=Exact())
    compact, _ = collapse(variables, "act_2", fit=Exact(max_gap=1))
    assert exact.costs[1].metric == metric(compact) and exact.costs[1].held_out_r2 is None


def test_plan_measures_no_choice_of_sites_twice(variables, metric):
    seen = []

    def recorded(tree):
        seen.append(tree)
        return metric(tree)

    found = plan(None, variables, recorded, budget=Count(2), fit=Exact(max_gap=1))
    # The deep model, each of three sites alone, then two sites: the first step is a trial's.
    assert len(seen) == 1 + 3 + 1
    compact, _ = collapse(variables, found.sites, fit=Exact(max_gap=1))
    assert found.steps[2].metric == metric(compact)
    first, _ = collapse(variables, found.steps[1].site, fit=Exact(max_gap=1))
    assert found.steps[1].metric == metric(first)


@pytest.mark.slow
def test_steps_of_a_sequential_fit_are_those_that_are_carried_out(variables, metric):
    found = plan(MODEL.apply, variables, metric, [X], budget=Count(2))
    for taken in (1, 2):
        sites = [step.site for step in found.steps[1 : taken + 1]]
        compact, _ = collapse_sequential(MODEL.apply, variables, [X], sites)
        assert found.steps[taken].metric == pytest.approx(metric(compact), rel=1e-2)


@pytest.mark.slow
def test_plan_steps_equal_the_collapses_they_stand_for(variables, metric, whole):
    assert [step.site for step in whole.steps] == [None, "act_0", "act_2", "act_1"]
    assert whole.budget_met and whole.num_taken == 3 and whole.skipped == ()
    assert whole.sites == ("act_0", "act_1", "act_2")
    assert whole.steps[0].parameters == 3 * (64 * 64 + 64) + 64 * 10 + 10
    assert whole.steps[0].flops == 2 * (3 * 64 * 64 + 64 * 10)
    for taken in (1, 2, 3):
        sites = [step.site for step in whole.steps[1 : taken + 1]]
        compact, report = collapse(
            variables, calibration=calibrate(MODEL.apply, variables, [X], sites)
        )
        step = whole.steps[taken]
        assert step.metric == pytest.approx(metric(compact), rel=1e-2)
        assert step.parameters == report.parameters_after
        flops = 2 * sum(k.size for k in jax.tree.leaves(compact) if k.ndim == 2)
        assert step.flops == flops


@pytest.mark.slow
def test_collapse_takes_a_plan(variables, metric, whole):
    two = plan(MODEL.apply, variables, metric, [X], budget=Count(2))
    assert two.sites == ("act_0", "act_2")
    stats = calibrate(MODEL.apply, variables, [X], two)
    compact, report = collapse(variables, two, calibration=stats)
    assert report.collapsed == two.sites
    in_turn, report = collapse_sequential(MODEL.apply, variables, [X], two)
    assert report.collapsed == two.sites
    assert two.steps[2].metric == pytest.approx(metric(in_turn), rel=1e-3)
    assert two.steps[2].metric > whole.steps[2].metric
    with pytest.raises(CollapseError, match="act_0, act_1, act_2: chosen, but calibrated were"):
        collapse(variables, whole, calibration=stats)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "sites", "met"),
    [
        (Count(1), ["act_0"], True),
        (Params(0.8), ["act_0"], True),
        (Params(5000), ["act_0", "act_2"], True),
        (Flops(0.3), ["act_0", "act_1", "act_2"], True),
        (Flops(100), ["act_0", "act_1", "act_2"], False),
        ("between 1 and 2", ["act_0"], True),
        (MaxDrop(0.0), [], False),
        (MaxDrop(1e9), ["act_0", "act_1", "act_2"], True),
        (Count(9), ["act_0", "act_1", "act_2"], False),
    ],
    ids=str,
)
def test_plan_keeps_to_budgets(variables, metric, whole, budget, sites, met):
    first, second = (whole.steps[0].metric - step.metric for step in whole.steps[1:3])
    if budget == "between 1 and 2":
        budget = MaxDrop((first + second) / 2)
    known = {step.site: step.metric for step in whole.steps}
    order = [step.site for step in whole.steps if step.site]

    def remembered(tree):
        gone = {site for site in order if site not in tree["params"]}
        deepest = next((site for site in reversed(order) if site in gone), None)
        return known[deepest]

    fit = LeastSquares(sequential=False)
    got = plan(MODEL.apply, variables, remembered, [X], budget=budget, fit=fit)
    assert list(got.sites) == sites and got.budget_met == met
    text = str(got)
    assert ("not met" in text) != met and str(budget) in text
    if isinstance(budget, MaxDrop) and len(sites) < 3:
        assert len(got.steps) == len(sites) + 2  # the step that is one too far is shown


@pytest.mark.parametrize(
    ("order", "sites"), [("last", ["act_2", "act_1"]), ("gap", ["act_0", "act_2"])]
)
def test_plan_follows_the_order(variables, metric, order, sites):
    got = plan(None, variables, metric, fit=Exact(max_gap=9), budget=Count(2), order=order)
    assert [step.site for step in got.steps[1:]] == sites
    compact, _ = collapse(variables, got, Exact(max_gap=9))
    assert got.steps[2].metric == metric(compact)


class EncoderDecoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = CollapsibleMLP((8, 4), nn.relu, name="encoder")(x)
        return CollapsibleMLP((8, 4), nn.relu, name="decoder")(x)


def test_plan_order_last_is_traced():
    model, x = EncoderDecoder(), jnp.ones((2, 4))
    variables = model.init(jax.random.key(0), x)
    options = dict(fit=Exact(max_gap=9), budget=Count(1), order="last")
    got = plan(model.apply, variables, lambda v: 0.0, [x], **options)
    assert got.sites == ("decoder/act_0",)
    with pytest.raises(CollapseError, match='order="last" needs the forward order, and names do'):
        plan(None, variables, lambda v: 0.0, **options)


def test_plan_skips_sites_with_reasons(variables, metric):
    got = plan(None, variables, metric, fit=Exact(max_gap=0.3), budget=Count(3))
    assert got.sites == ("act_0",) and not got.budget_met
    reasons = (Skip("act_1", "gap", "1.0000 over 0.3"), Skip("act_2", "gap", "0.5000 over 0.3"))
    assert got.skipped == reasons
    assert "skipped act_1: gap 1.0000 over 0.3" in str(got)
    _, narrow = random_chain((2, 40), 40)
    got = plan(None, narrow, lambda tree: 0.0, fit=Exact(), budget=Params(0.9))
    assert got.skipped == (Skip("act_0", "grows"),)
    assert not got.budget_met and got.sites == ()
    compact, report = collapse(narrow, got)
    assert report.collapsed == () and set(compact["params"]) == set(narrow["params"])


def test_plan_takes_a_growing_site_after_its_neighbour():
    _, chain = random_chain((10, 51, 5), 78)
    chain["params"]["act_1"]["slope"] = np.float32(0.99)
    got = plan(None, chain, lambda tree: 0.0, fit=Exact(), order="gap", budget=Count(2))
    assert [step.site for step in got.steps[1:]] == ["act_1", "act_0"]


def test_plan_json_and_plot(whole, tmp_path):
    assert Plan.from_json(whole.to_json()) == whole
    for text in ("{}", "[1]", "no", whole.to_json().replace('"lcjax_plan": 2', '"lcjax_plan": 1')):
        with pytest.raises(ValueError, match="not a plan that Plan.to_json wrote"):
            Plan.from_json(text)
    whole.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_plan_pareto_front_leaves_out_dominated_steps(whole):
    deep, one, two, three = whole.steps
    assert whole.pareto_front == whole.steps
    better = type(one)(site="act_0", metric=two.metric - 1, parameters=one.parameters, flops=0)
    beaten = Plan(**{**vars(whole), "steps": (deep, better, two, three)})
    assert beaten.pareto_front == (deep, two, three)


@pytest.mark.parametrize(
    ("budget", "value", "message"),
    [
        (Params, 1.5, "Params: got 1.5, expected a whole number"),
        (Flops, 0, "Flops: got 0, expected a whole number"),
        (Params, True, "Params: got True, expected a whole number"),
        (Count, 0, "Count: got 0, expected a number of sites"),
        (MaxDrop, -1, "MaxDrop: got -1, expected at least 0"),
    ],
)
def test_budgets_reject_numbers_out_of_range(budget, value, message):
    with pytest.raises(ValueError, match=message):
        budget(value)


def test_plan_rejects_bad_arguments(variables, metric):
    ask = lambda **kwargs: plan(MODEL.apply, variables, metric, [X], **kwargs)
    one = Count(1)
    with pytest.raises(TypeError, match="budget is an int; expected one of lcjax.MaxDrop"):
        ask(budget=1)
    with pytest.raises(ValueError, match="order is 'first'; expected 'sensitivity', 'last'"):
        ask(budget=one, order="first")
    with pytest.raises(TypeError, match="fit: got 'ridge', expected lcjax.Exact"):
        ask(budget=one, fit="ridge")
    with pytest.raises(TypeError, match="data: got None, expected batches for PerUnit"):
        plan(MODEL.apply, variables, metric, budget=one, fit=PerUnit())
    with pytest.raises(TypeError, match="apply_fn: got None, expected a function"):
        plan(None, variables, metric, [X], budget=one)
    with pytest.raises(TypeError, match="only once, but each trial needs a separate pass"):
        plan(MODEL.apply, variables, metric, iter([X]), budget=one)
    with pytest.raises(ValueError, match="metric returned nan; expected a finite number"):
        plan(MODEL.apply, variables, lambda tree: float("nan"), [X], budget=one)


@pytest.mark.parametrize("sequential", [False, True])
def test_plan_solves_each_segment_and_traces_the_order_once(monkeypatch, sequential):
    """Sites of different chains: a trial uses what earlier trials solved."""
    model, x = EncoderDecoder(), jnp.ones((8, 4)) * jnp.arange(8.0)[:, None]
    variables = model.init(jax.random.key(0), x)
    solved, orders = [], []
    solve, order = trials.solve_checked, trials.forward_paths
    monkeypatch.setattr(trials, "solve_checked", lambda *args: solved.append(1) or solve(*args))
    monkeypatch.setattr(trials, "forward_paths", lambda *args: orders.append(1) or order(*args))
    fit = LeastSquares(sequential=sequential)
    got = plan(model.apply, variables, lambda v: 0.0, [x], budget=Count(2), fit=fit)
    assert got.num_taken == 2
    assert len(solved) == 2 and len(orders) == sequential


def test_plan_takes_a_fit_without_data_that_is_not_exact():
    """A new kind of fit registers a solver and touches no driver."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Anyway(Fit):
        name = "anyway"
        needs_data = False

    solve.register(Anyway, lambda fit, segment, statistics=None: solve(Exact(), segment))
    _, variables = random_chain((8, 5), 6)
    compact, report = collapse(variables, "act_0", Anyway())
    assert report.collapsed == ("act_0",) and set(compact["params"]) == {"dense_1"}
    got = plan(None, variables, lambda v: 0.0, budget=Count(1), fit=Anyway())
    assert got.sites == ("act_0",)


@pytest.mark.slow
def test_sites_read_by_a_linear_map_of_a_narrowed_tree_are_skipped(variables, metric):
    fits = {"act_1": Units(4, linear=True)}
    narrowed, _ = collapse_sequential(MODEL.apply, variables, [X], fit=fits)
    found = sensitivity(MODEL.apply, narrowed, metric, [X])
    assert [cost.site for cost in found.costs] == ["act_1", "act_2"]
    assert [(skip.site, skip.reason) for skip in found.skipped] == [("act_0", "bypassed")]
    assert "act_0 stays: read or fed by the linear map" in str(found)
    planned = plan(MODEL.apply, narrowed, metric, [X], budget=Count(2), order="sensitivity")
    assert sorted(planned.sites) == ["act_1", "act_2"]
