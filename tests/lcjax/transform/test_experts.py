"""Kernels stacked by expert: a site with a slope and a fused kernel for each of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.transform.analysis.reasons import Cause, Reason
from tests.helpers.functions import arrays

E, D, H, T = 3, 6, 16, 60
x = arrays(x=(T, D))["x"]
ROWS = arrays(x=(T, E, D))["x"].swapaxes(0, 1)  # of each expert
P = arrays(u=(E, D, H), g=(E, D, H), d=(E, H, 4), b=(E, H), c=(E, 4), router=(D, E))
GATED = P | arrays(u=(E, 2, D, H))


def mlp(p, x):
    return nn.gelu(x @ p["u"]) @ p["d"]


def all_tokens(p, x):
    """Every expert runs on every token, as MaxText's `dense_matmul` without capacity."""
    h = nn.gelu(jnp.einsum("td,edh->teh", x, p["u"]))
    y = jnp.einsum("teh,ehd->ted", h, p["d"])
    return jnp.einsum("ted,te->td", y, nn.softmax(x @ p["router"]))


def gated(p, x):
    h = nn.silu(jnp.einsum("td,edh->teh", x, p["g"])) * jnp.einsum("td,edh->teh", x, p["u"])
    return jnp.einsum("teh,ehd->ted", h, p["d"])


def biased(p, x):
    h = nn.relu(jnp.einsum("td,edh->eth", x, p["u"]) + p["b"][:, None])
    return jnp.einsum("eth,ehd->etd", h, p["d"]) + p["c"][:, None]


def dispatched(p, x):
    """Each expert on the tokens of its own, up to a capacity, as MaxText's with capacity."""
    weights, mask = route(p, x)
    slots = jnp.einsum("tec,td->ecd", mask, x)
    h = nn.silu(jnp.einsum("ecd,edh->ech", slots, p["g"])) * jnp.einsum(
        "ecd,edh->ech", slots, p["u"]
    )
    y = jnp.einsum("ech,ehd->ecd", h, p["d"])
    return jnp.einsum("tec,ecd->td", mask * weights[..., None], y)


def route(p, x, capacity=30):
    """Returns weights (t, e) and the slots of tokens (t, e, c), the best expert of each."""
    weights = nn.softmax(x @ p["router"])
    chosen = nn.one_hot(jnp.argmax(weights, -1), E)
    place = (jnp.cumsum(chosen, 0) - 1) * chosen
    return weights, nn.one_hot(jnp.where(chosen > 0, place, -1).astype(int), capacity)


def one_array(p, x):
    h = jnp.einsum("td,endh->tenh", x, p["u"])
    return jnp.einsum("teh,ehd->ted", nn.gelu(h[:, :, 0]) * h[:, :, 1], p["d"])


def in_a_scan(p, x):
    return jax.lax.scan(lambda x, p: (x + 0.1 * all_tokens(p, x), None), x, p)[0]


PAIRS = {name: P[name] for name in "ud"}
LAST = {name: jnp.moveaxis(leaf, 0, 2) for name, leaf in PAIRS.items()}
LAYERS = arrays(u=(2, E, D, H), d=(2, E, H, D), router=(2, D, E))
CASES = {
    "all tokens": (all_tokens, P, x, "u"),
    "gated": (gated, P, x, "u"),
    "with biases": (biased, P, x, "u"),
    "dispatched": (dispatched, P, x, "u"),
    "gate and value in one array": (one_array, GATED, x, "u"),
    "vmap, one input": (jax.vmap(mlp, (0, None)), PAIRS, x, "u"),
    "vmap, own inputs": (jax.vmap(mlp), PAIRS, ROWS, "u"),
    "vmap, last axes": (jax.vmap(mlp, (2, 1), 1), LAST, ROWS.swapaxes(0, 1), "u"),
    "in a scan": (in_a_scan, LAYERS, x, "u"),
}


@pytest.fixture(params=CASES, name="case")
def _case(request):
    fn, params, inputs, path = CASES[request.param]
    return lcjax.collapsible(fn), fn, params, inputs, path


def sloped(f, params, inputs, slope):
    tree = f.init(params, inputs)
    return tree | {"slopes": jax.tree.map(lambda a: jnp.full_like(a, slope), tree["slopes"])}


def test_one_site_with_a_slope_for_each_expert(case):
    f, fn, params, inputs, path = case
    tree = f.init(params, inputs)
    layers = (2, E) if fn is in_a_scan else (E,)
    assert {name: s["slope"].shape for name, s in tree["slopes"].items()} == {path: layers}
    (site,) = f.trace(tree, inputs).sites
    assert (site.d_in, site.d_hidden, site.layers) == (D, H, np.prod(layers))


def test_slope_0_is_the_function(case):
    f, fn, params, inputs, _ = case
    np.testing.assert_array_equal(f(sloped(f, params, inputs, 0), inputs), fn(params, inputs))


def test_slope_1_collapses_exactly(case):
    f, fn, params, inputs, _ = case
    tree = sloped(f, params, inputs, 1)
    compact, report = f.trace(tree, inputs).collapse()
    assert report.flops_after < report.flops_before
    ((entry),) = compact["fused"].values()
    assert entry["kernel"].shape[-3] == E
    np.testing.assert_allclose(f(compact, inputs), f(tree, inputs), rtol=1e-4, atol=2e-4)
    assert np.abs(f(tree, inputs) - fn(params, inputs)).max() > 0.01


def test_slopes_of_experts_differ():
    f = lcjax.collapsible(all_tokens)
    tree = f.init(P, x)
    mixed = tree | {"slopes": {"u": {"slope": jnp.array([0.0, 0.5, 1.0])}}}
    z = jnp.einsum("td,edh->teh", x, P["u"])
    alpha = jnp.array([0.0, 0.5, 1.0])[:, None]
    y = jnp.einsum("teh,ehd->ted", alpha * z + (1 - alpha) * nn.gelu(z), P["d"])
    want = jnp.einsum("ted,te->td", y, nn.softmax(x @ P["router"]))
    np.testing.assert_allclose(f(mixed, x), want, rtol=1e-4, atol=1e-4)
    gradient = jax.grad(lambda tree: f(tree, x).sum())(mixed)["slopes"]["u"]["slope"]
    assert gradient.shape == (E,) and (gradient != 0).all()
    assert f.trace(mixed, x).sites[0].slope == 0.0  # the worst


def test_experts_stacked_otherwise_are_named():
    def shared(p, x):
        h = nn.relu(x @ p["u"])[:, None] * jnp.ones((E, 1))
        return jnp.einsum("teh,ehd->ted", h, p["d"])

    explained = lcjax.collapsible(shared).trace(P | arrays(u=(D, H)), x).explain()
    assert (explained.sites, dict(explained.rejected)) == ((), {"u": Reason(Cause.BATCHED)})


def top_1(p, x):
    """All tokens to all experts, of which one counts for each token."""
    h = nn.gelu(jnp.einsum("td,edh->teh", x, p["u"]))
    y = jnp.einsum("teh,ehd->ted", h, p["d"])
    scores = nn.softmax(x @ p["router"])
    weights = scores * nn.one_hot(jnp.argmax(scores, -1), E)
    return jnp.einsum("ted,te->td", y, weights)


def scaled(p, x):
    """As `top_1`, with the weights multiplied in and a sum."""
    y = jnp.einsum("teh,ehd->etd", nn.gelu(jnp.einsum("td,edh->teh", x, p["u"])), p["d"])
    return (y * nn.one_hot(jnp.argmax(x @ p["router"], -1), E).T[..., None]).sum(0)


def batches(p, x):
    """As MaxText's `dense_matmul`, of (batch, length, width)."""
    gate, value = (jnp.einsum("BSM,EMH->BSEH", x, p[name]) for name in ("g", "u"))
    y = jnp.einsum("BSEH,EHM->BSEM", nn.silu(gate) * value, p["d"])
    scores = nn.softmax(jnp.einsum("BSM,ME->BSE", x, p["router"]))
    weights = jnp.where(scores == scores.max(-1, keepdims=True), scores, 0.0)
    return jnp.einsum("BSEM,BSE->BSM", y, weights)


MANY = arrays(x=(4000, D))["x"]


@pytest.mark.slow
@pytest.mark.parametrize("fn", [top_1, scaled, dispatched])
def test_each_expert_is_fitted_to_its_own_tokens(fn):
    inputs = x if fn is dispatched else MANY[:1500]
    f = lcjax.collapsible(fn)
    call = f.trace(P, inputs)
    stats = call.calibrate([inputs], fit=lcjax.LeastSquares())
    chosen = np.argmax(inputs @ P["router"], -1)
    tokens = [int((chosen == e).sum()) for e in range(E)]
    if fn is dispatched:
        tokens = [min(count, 30) for count in tokens]
    counts = [int(stats.train[f"u[{e}]"].count + stats.held_out[f"u[{e}]"].count) for e in range(E)]
    assert counts == tokens
    compact, report = call.collapse(calibration=stats)
    assert [score.sites for score in report.fits] == [(f"u[{e}]",) for e in range(E)]
    own = [np.asarray(inputs[chosen == e]) for e in range(E)]
    if fn is not dispatched:
        (entry,) = compact["fused"].values()
        for e, rows in enumerate(own):
            want = mlp({"u": P["u"][e], "d": P["d"][e]}, rows)
            fitted = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], want, rcond=None)[0]
            np.testing.assert_allclose(entry["kernel"][e], fitted[:-1], atol=0.1)
    error = np.linalg.norm(f(compact, inputs) - fn(P, inputs)) / np.linalg.norm(fn(P, inputs))
    multiplied, _ = call.collapse(fit=lcjax.Exact(max_gap=1))
    plain = np.linalg.norm(f(multiplied, inputs) - fn(P, inputs)) / np.linalg.norm(fn(P, inputs))
    assert error < plain / 1.5


def test_tokens_of_experts_weigh_by_their_score():
    params = P | {"d": P["d"][..., :2]}
    rows = MANY[:300].reshape(60, 5, D)

    def fn(p, x):
        return top_1(p, x.reshape(-1, D)).reshape(*x.shape[:-1], 2).mean(1)

    call = lcjax.collapsible(fn).trace(params, rows)
    data = lcjax.CalibrationData([rows], holdout=0, weighting="influence")
    stats = call.calibrate(data, fit=lcjax.LeastSquares())
    tokens = rows.reshape(-1, D)
    scores = nn.softmax(tokens @ P["router"])
    for e in range(E):
        # An error in the expert's output changes the logits by its score times the error.
        routed = np.asarray(np.argmax(scores, -1) == e)
        weights = np.where(routed, np.asarray(scores[:, e]) ** 2, 0).reshape(60, 5)
        weights = (weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)).reshape(-1)
        got = stats.train[f"u[{e}]"]
        assert got.count == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-3)
        np.testing.assert_allclose(
            got.mean_x, np.average(tokens, axis=0, weights=weights), atol=1e-4
        )


def test_slots_of_experts_are_not_taken_for_rows():
    params = P | {"d": P["d"][..., :2]}
    call = lcjax.collapsible(dispatched).trace(params, x[:30])  # as many rows as slots
    data = lcjax.CalibrationData([x[:30]], holdout=0, weighting="influence")
    stats = call.calibrate(data, fit=lcjax.LeastSquares())
    scores = np.asarray(nn.softmax(x[:30] @ P["router"]))
    for e in range(E):
        weights = np.where(scores.argmax(-1) == e, scores[:, e] ** 2, 0)
        effective = weights.sum() ** 2 / (weights**2).sum()
        assert stats.train[f"u[{e}]"].count == pytest.approx(effective, rel=1e-3)


@pytest.mark.slow
def test_padding_is_left_out_by_a_mask():
    inputs = MANY[:600].reshape(60, 10, D)
    call = lcjax.collapsible(batches).trace(P, inputs)
    mask = jnp.arange(10) < jnp.arange(60)[:, None] % 10
    chosen = np.argmax(inputs @ P["router"], -1)
    data = lcjax.CalibrationData([inputs], mask=lambda x: mask)
    stats = call.calibrate(data)
    for e in range(E):
        both = stats.train[f"u[{e}]"].count + stats.held_out[f"u[{e}]"].count
        assert int(both) == int(((chosen == e) & np.asarray(mask)).sum())
    compact, _ = call.collapse(calibration=stats)
    f = lcjax.collapsible(batches)
    assert f(compact, inputs).shape == (60, 10, 4)


@pytest.mark.slow
@pytest.mark.parametrize("fit", [lcjax.PerUnit(), lcjax.Remove(), lcjax.LeastSquares(rank=2)])
def test_other_fits_of_experts(fit):
    f = lcjax.collapsible(gated)
    call = f.trace(P, MANY[:200])
    compact, report = call.collapse(calibration=call.calibrate([MANY[:200]], fit=fit))
    assert {site for score in report.fits for site in score.sites} >= {f"u[{e}]" for e in range(E)}
    assert f(compact, MANY).shape == (len(MANY), E, 4)
    again, _ = call.collapse_sequential([MANY[:200]], fit=fit)
    np.testing.assert_allclose(f(again, x), f(compact, x), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_too_few_tokens_of_an_expert_are_reported():
    params = P | {"router": P["router"].at[:, 0].set(0).at[:, 1].set(-P["router"][:, 2])}
    rare = arrays(x=(200, D))["x"]
    rare = rare[np.argsort(-np.abs(rare @ params["router"][:, 2]))[:20]]  # none to expert 0
    f = lcjax.collapsible(top_1)
    call = f.trace(params, rare)
    stats = call.calibrate([rare])
    compact, report = call.collapse(calibration=stats)
    notes = {score.sites[0]: score.notes for score in report.fits}
    assert notes["u[0]"] == (
        "0 tokens are routed to this expert: its layers are multiplied, not fitted",
    )
    ((entry),) = compact["fused"].values()
    np.testing.assert_allclose(entry["kernel"][0], P["u"][0] @ P["d"][0], rtol=1e-4, atol=1e-4)
    assert any(note.startswith("u[0]: 0 tokens to fit on for 6 inputs") for note in stats.notes)


def test_units_of_experts_are_refused_with_a_reason():
    call = lcjax.collapsible(gated).trace(P, x)
    with pytest.raises(lcjax.CollapseError, match="u: got .* for kernels stacked by expert"):
        call.calibrate([x], fit=lcjax.Units(4))


@pytest.mark.slow
def test_plans_of_experts():
    call = lcjax.collapsible(top_1).trace(P, MANY[:200])
    plan = call.plan_fits([MANY[:200]], budget=lcjax.Params(0.9))
    (rows,) = plan.table.sites
    assert [option.fit for option in rows.options] == [None, lcjax.LeastSquares(), lcjax.Remove()]
    plan = call.plan(lambda tree: 1.0, [MANY[:200]], budget=lcjax.MaxDrop(0.1))
    assert plan.sites == ("u",)
