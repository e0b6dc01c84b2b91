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
    return jnp.einsum("tec,ecd->td", mask * weights[..., None], jnp.einsum("ech,ehd->ecd", h, p["d"]))


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
    fn = lambda p, x: jnp.einsum("teh,ehd->ted", nn.relu(x @ p["u"])[:, None] * jnp.ones((E, 1)), p["d"])
    params = P | arrays(u=(D, H))
    explained = lcjax.collapsible(fn).trace(params, x).explain()
    assert explained.sites == ()
    assert [path for path, _ in explained.rejected] == ["u"]
