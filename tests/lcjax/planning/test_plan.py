import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import (
    CollapseError,
    CollapsibleMLP,
    Plan,
    calibrate,
    collapse,
    collapse_sequential,
    plan,
    sensitivity,
)
from tests.helpers.trees import random_chain, with_slopes

load_digits = pytest.importorskip("sklearn.datasets").load_digits

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
    return plan(MODEL.apply, variables, metric, [X], count=3, sequential=False)


def test_sensitivity_is_the_metric_of_each_site_alone(variables, metric):
    costs = sensitivity(MODEL.apply, variables, None, metric, [X])
    assert [cost.site for cost in costs.costs] == ["act_0", "act_1", "act_2"]
    for cost in costs.costs:
        stats = calibrate(MODEL.apply, variables, [X], cost.site)
        compact, report = collapse(variables, calibration=stats)
        assert cost.metric == pytest.approx(metric(compact), rel=1e-3)
        assert cost.drop == costs.baseline - cost.metric and costs.baseline == 0
        assert cost.parameters == report.parameters_after
        assert cost.held_out_r2 == pytest.approx(report.fits[0].held_out_r2, abs=1e-4)
    assert [cost.site for cost in costs.cheapest_first] == ["act_0", "act_2", "act_1"]
    rows = str(costs).splitlines()
    assert "held-out R²" in rows[0] and "(deep)" in rows[2] and "act_0" in rows[3]
    exact = sensitivity(None, variables, ["act_0", "act_2"], metric, fit="exact")
    compact, _ = collapse(variables, "act_2", fit=Exact(max_gap=1))
    assert exact.costs[1].metric == metric(compact) and exact.costs[1].held_out_r2 is None


def test_every_step_is_measured_as_it_will_be(variables, metric, whole):
    assert [step.site for step in whole.steps] == [None, "act_0", "act_2", "act_1"]
    assert whole.met and whole.chosen == 3 and whole.refused == ()
    assert whole.sites == ("act_0", "act_1", "act_2")
    assert whole.steps[0].parameters == 3 * (64 * 64 + 64) + 64 * 10 + 10
    assert whole.steps[0].flops == 2 * (3 * 64 * 64 + 64 * 10)
    for taken in (1, 2, 3):
        sites = [step.site for step in whole.steps[1 : taken + 1]]
        compact, report = collapse(variables, fit=calibrate(MODEL.apply, variables, [X], sites))
        step = whole.steps[taken]
        assert step.metric == pytest.approx(metric(compact), rel=1e-2)
        assert step.parameters == report.parameters_after
        flops = 2 * sum(k.size for k in jax.tree.leaves(compact) if k.ndim == 2)
        assert step.flops == flops


def test_collapse_takes_a_plan(variables, metric, whole):
    two = plan(MODEL.apply, variables, metric, [X], count=2)
    assert two.sites == ("act_0", "act_2")
    stats = calibrate(MODEL.apply, variables, [X], two)
    compact, report = collapse(variables, two, calibration=stats)
    assert report.collapsed == two.sites
    in_turn, report = collapse_sequential(MODEL.apply, variables, [X], two)
    assert report.collapsed == two.sites
    assert two.steps[2].metric == pytest.approx(metric(in_turn), rel=1e-3)
    assert two.steps[2].metric > whole.steps[2].metric
    with pytest.raises(CollapseError, match="act_0, act_1, act_2: asked for, but the fit was"):
        collapse(variables, whole, calibration=stats)


@pytest.mark.parametrize(
    ("budget", "sites", "met"),
    [
        ({"count": 1}, ["act_0"], True),
        ({"target_params": 0.8}, ["act_0"], True),
        ({"target_params": 5000}, ["act_0", "act_2"], True),
        ({"target_flops": 0.3}, ["act_0", "act_1", "act_2"], True),
        ({"target_flops": 100}, ["act_0", "act_1", "act_2"], False),
        ({"max_drop": "between 1 and 2"}, ["act_0"], True),
        ({"max_drop": 0.0}, [], False),
        ({"max_drop": 1e9}, ["act_0", "act_1", "act_2"], True),
        ({"count": 9}, ["act_0", "act_1", "act_2"], False),
    ],
    ids=str,
)
def test_budgets(variables, metric, whole, budget, sites, met):
    first, second = (whole.steps[0].metric - step.metric for step in whole.steps[1:3])
    if budget == {"max_drop": "between 1 and 2"}:
        budget = {"max_drop": (first + second) / 2}
    known = {step.site: step.metric for step in whole.steps}
    order = [step.site for step in whole.steps if step.site]

    def remembered(tree):
        gone = {site for site in order if site not in tree["params"]}
        deepest = next((site for site in reversed(order) if site in gone), None)
        return known[deepest]

    got = plan(MODEL.apply, variables, remembered, [X], **budget, sequential=False)
    assert list(got.sites) == sites and got.met == met
    text = str(got)
    assert ("not met" in text) != met and next(iter(budget)) in text
    if "max_drop" in budget and len(sites) < 3:
        assert len(got.steps) == len(sites) + 2  # the step that is one too far is shown


@pytest.mark.parametrize(
    ("order", "sites"), [("last", ["act_2", "act_1"]), ("gap", ["act_0", "act_2"])]
)
def test_orders(variables, metric, order, sites):
    got = plan(None, variables, metric, fit="exact", threshold=9, count=2, order=order)
    assert [step.site for step in got.steps[1:]] == sites
    compact, _ = collapse(variables, got, fit=Exact(max_gap=9))
    assert got.steps[2].metric == metric(compact)


class EncoderDecoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = CollapsibleMLP((8, 4), nn.relu, name="encoder")(x)
        return CollapsibleMLP((8, 4), nn.relu, name="decoder")(x)


def test_the_last_site_is_the_last_that_runs():
    model, x = EncoderDecoder(), jnp.ones((2, 4))
    variables = model.init(jax.random.key(0), x)
    options = dict(fit="exact", threshold=9, count=1, order="last")
    got = plan(model.apply, variables, lambda v: 0.0, [x], **options)
    assert got.sites == ("decoder/act_0",)
    with pytest.raises(CollapseError, match='order="last" counts in forward order, and names do'):
        plan(None, variables, lambda v: 0.0, **options)


def test_what_is_refused_and_why(variables, metric):
    got = plan(None, variables, metric, fit="exact", threshold=0.3, count=3)
    assert got.sites == ("act_0",) and not got.met
    reasons = (("act_1", "gap 1.0000 over 0.3"), ("act_2", "gap 0.5000 over 0.3"))
    assert got.refused == reasons
    assert "refused act_1: gap 1.0000 over 0.3" in str(got)
    _, narrow = random_chain((2, 40), 40)
    got = plan(None, narrow, lambda tree: 0.0, fit="exact", target_params=0.9)
    assert got.refused == (
        ("act_0", "would not pay: one matrix with its bias is no smaller than two"),
    )
    assert not got.met and got.sites == ()
    compact, report = collapse(narrow, got)
    assert report.collapsed == () and set(compact["params"]) == set(narrow["params"])


def test_a_site_that_grows_goes_once_its_neighbour_is_gone():
    _, chain = random_chain((10, 51, 5), 78)
    chain["params"]["act_1"]["slope"] = np.float32(0.99)
    got = plan(None, chain, lambda tree: 0.0, fit="exact", order="gap", count=2)
    assert [step.site for step in got.steps[1:]] == ["act_1", "act_0"]


def test_plans_outlive_the_process(whole, tmp_path):
    assert Plan.from_json(whole.to_json()) == whole
    for text in ("{}", "[1]", "no", whole.to_json().replace('"lcjax_plan": 1', '"lcjax_plan": 2')):
        with pytest.raises(ValueError, match="not a plan that Plan.to_json wrote"):
            Plan.from_json(text)
    whole.draw(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_the_front_leaves_out_what_another_step_beats(whole):
    deep, one, two, three = whole.steps
    assert whole.front == whole.steps
    better = type(one)(site="act_0", metric=two.metric - 1, parameters=one.parameters, flops=0)
    beaten = Plan(**{**vars(whole), "steps": (deep, better, two, three)})
    assert beaten.front == (deep, two, three)


def test_bad_arguments_are_named(variables, metric):
    ask = lambda **kwargs: plan(MODEL.apply, variables, metric, [X], **kwargs)
    with pytest.raises(ValueError, match="wanted one budget, .*; got none"):
        ask()
    with pytest.raises(ValueError, match="wanted one budget, .*; got max_drop and count"):
        ask(count=1, max_drop=1.0)
    for name, value in (("target_params", 1.5), ("target_flops", 0), ("target_params", True)):
        with pytest.raises(ValueError, match=f"{name} is {value}, must be a whole number"):
            ask(**{name: value})
    with pytest.raises(ValueError, match="count is 0, must be a number of sites"):
        ask(count=0)
    with pytest.raises(ValueError, match="max_drop is -1, must be at least 0"):
        ask(max_drop=-1)
    with pytest.raises(ValueError, match="order is 'first', must be 'sensitivity', 'last'"):
        ask(count=1, order="first")
    with pytest.raises(ValueError, match="fit is 'ridge', must be 'least_squares' or 'moments'"):
        ask(count=1, fit="ridge")
    with pytest.raises(TypeError, match="fit='moments' needs apply_fn and batches"):
        plan(None, variables, metric, count=1, fit=PerUnit())
    with pytest.raises(TypeError, match="gone through only once, but each trial needs a pass"):
        plan(MODEL.apply, variables, metric, iter([X]), count=1)
    with pytest.raises(ValueError, match="metric returned nan, wanted a finite number"):
        plan(MODEL.apply, variables, lambda tree: float("nan"), [X], count=1)
