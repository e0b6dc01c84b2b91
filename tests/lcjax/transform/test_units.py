"""Sites of a function that keep some of their hidden units."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax import CollapseError
from lcjax.structure.replacement import NewLayer, Replacement
from tests.helpers.functions import (
    CASES,
    CHAIN,
    GATED,
    KEY,
    PAIR,
    X,
    arrays,
    chain,
    close,
    dropped,
    gated,
    pair,
    sloped,
)
from tests.helpers.tolerance import assert_close

RNG = np.random.default_rng(3)


def narrow(call, path, units=None, *, kernel=False, down=None):
    """Returns what `rebuild` does for some units of one site, with its last kernel cut."""
    (segment,) = call.segments([path])
    segment = segment.pair
    last = segment.layers[-1]
    width, d_out = last["kernel"].shape[-2:]
    units = np.arange(width) if units is None else np.asarray(units)
    rows = last["kernel"][units] if down is None else down
    joint = segment.joints[0].bypass or {}
    bias = joint.get("bias", last.get("bias", jnp.zeros(d_out, last["kernel"].dtype)))
    bypass = {"bias": bias}
    if kernel:
        d_in = segment.layers[0]["kernel"].shape[0] - (segment.entry.width if segment.entry else 0)
        bypass["kernel"] = jnp.asarray(RNG.normal(size=(d_in, d_out)) / 4, last["kernel"].dtype)
    elif "kernel" in joint:
        bypass["kernel"] = joint["kernel"]
    replacement = Replacement(
        layers=(NewLayer(None, (0,)), NewLayer({"kernel": rows}, (1,))),
        collapsed=(),
        units=units,
        bypass=bypass,
    )
    return call.rebuild({segment: replacement})


def masked(z, units):
    """Returns hidden units, those that do not stay at 0."""
    return z * np.isin(np.arange(z.shape[-1]), units)


PLAIN = {
    name: case
    for name, case in CASES.items()
    if "scan" not in name and "every" not in name and "dropout" not in name
}
QUICK = ("PReLU", "SwiGLU", "gate and value in one", "chain", "norm before", "norm after")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in PLAIN]
)
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_all_units_are_the_identity(name, slope):
    case = PLAIN[name]
    f = lcjax.collapsible(case.fn)
    params = sloped(f.init(case.params, *case.inputs), slope)
    want = f(params, *case.inputs, **case.kwargs)
    for path in case.sites:
        call = f.trace(params, *case.inputs, **case.kwargs)
        order = RNG.permutation(call.sites[call.sites.paths.index(path)].d_hidden)
        rebuilt = narrow(call, path, order)
        close(jax.jit(f)(rebuilt.tree, *case.inputs, **case.kwargs), want)
        params = rebuilt.tree
    again = f.trace(params, *case.inputs, **case.kwargs)
    assert again.sites.paths == case.sites and not again.collapsed


@pytest.mark.parametrize("name", CASES["every activation"].params)
@pytest.mark.slow
def test_units_of_every_activation(name):
    act = {name[: -len("/w1")]: name for name in CASES["every activation"].sites}
    assert name in act
    fn = pair(_activation(name))
    f, units = lcjax.collapsible(fn), [9, 2, 5]
    rebuilt = narrow(f.trace(PAIR, X), "w1", units)

    def cut(p, x):
        z = x @ p["w1"][:, np.array(units)] + p["b1"][np.array(units)]
        return _activation(name)(z) @ p["w2"][np.array(units)] + p["b2"]

    close(f(rebuilt.tree, X), cut(PAIR, X))
    close(
        jax.grad(lambda x: f(rebuilt.tree, x).sum())(X), jax.grad(lambda x: cut(PAIR, x).sum())(X)
    )


def _activation(name):
    from tests.helpers.functions import ACTIVATIONS

    return ACTIVATIONS[name]


@pytest.mark.parametrize("act", [nn.silu, nn.gelu])
@pytest.mark.parametrize("kernel", [False, True])
def test_gated_units_with_a_bypass(act, kernel):
    f, units = lcjax.collapsible(gated(act)), np.array([1, 4, 15])
    rebuilt = narrow(f.trace(GATED, X), "w1", units, kernel=kernel)
    (key,) = rebuilt.tree["fused"]
    removed = '{"g": [6, 16], "w1": [6, 16], "w2": [16, 4]}'
    assert key == f'w1 {{"form": ["units"], "hidden": [16], "units": [3], "removed": {removed}}}'
    assert not rebuilt.tree["model"]
    entry = rebuilt.tree["fused"][key]
    h = act(X @ GATED["g"][:, units]) * (X @ GATED["w1"][:, units])
    want = h @ GATED["w2"][units] + entry["bypass"]["0"]["bias"]
    want = want + X @ entry["bypass"]["0"]["kernel"] if kernel else want
    close(f(rebuilt.tree, X), want)
    assert rebuilt.after.parameters == sum(leaf.size for leaf in jax.tree.leaves(entry))
    assert rebuilt.after.flops == 2 * (6 * 3 * 2 + 3 * 4 + 6 * 4 * kernel)
    sloped_tree = rebuilt.tree | {"slopes": {"w1": {"slope": jnp.float32(0.25)}}}
    value = X @ GATED["w1"][:, units]
    mixed = (0.25 * value + 0.75 * h) @ GATED["w2"][units] + (want - h @ GATED["w2"][units])
    close(f(sloped_tree, X), mixed)


def test_runs_under_transforms_and_trains():
    f, units = lcjax.collapsible(pair(nn.gelu)), [0, 3, 7, 8]
    tree = narrow(f.trace(PAIR, X), "w1", units, kernel=True).tree
    want = f(tree, X)
    close(jax.jit(f)(tree, X), want)
    close(jax.vmap(f, (None, 0))(tree, X), want)
    close(jax.checkpoint(f)(tree, X), want)
    grads = jax.grad(lambda tree: (f(tree, X) ** 2).sum())(tree)
    assert jax.tree.structure(grads) == jax.tree.structure(tree)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))
    shapes = jax.eval_shape(lambda: tree)
    assert jax.eval_shape(f, shapes, X).shape == want.shape
    assert f.trace(shapes, X).sites[0].d_hidden == 4


def test_bfloat16():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PAIR)
    f, x = lcjax.collapsible(pair(nn.silu)), X.astype(jnp.bfloat16)
    rebuilt = narrow(f.trace(half, x), "w1")
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(rebuilt.tree["fused"]))
    assert f(rebuilt.tree, x).dtype == jnp.bfloat16
    assert_close(f(rebuilt.tree, x), f(f.init(half, x), x), dtype=jnp.bfloat16, terms=400)


@pytest.mark.parametrize("kernel", [False, True])
def test_neighbours_are_narrowed_in_forward_order(kernel):
    f = lcjax.collapsible(chain)
    params, kept = f.init(CHAIN, X), {"w1": [3, 1, 8, 12], "w2": [5, 0, 6], "w3b": [2, 7, 9, 11]}
    for path, units in kept.items():
        call = f.trace(params, X)
        params = narrow(call, path, units, kernel=kernel).tree
    (key,) = params["fused"]
    assert key.startswith('w1+w2+w3b {"form": ["units", "units", "units"], "hidden": [16, 8, 12], ')
    assert lcjax.FusedKey.parse(key).units == (4, 3, 4)
    entry = params["fused"][key]
    layers, bypass = entry["layers"], entry["bypass"]
    assert [layers[i]["kernel"].shape for i in "0123"] == [(6, 4), (4, 3), (3, 4), (4, 4)]
    added = lambda i, x: (x @ bypass[i]["kernel"] if kernel else 0) + bypass[i]["bias"]
    h = nn.gelu(X @ layers["0"]["kernel"] + layers["0"]["bias"])
    z = jnp.tanh(h @ layers["1"]["kernel"] + added("0", X))
    y = nn.relu(z @ layers["2"]["kernel"] + added("1", h))
    close(f(params, X), y @ layers["3"]["kernel"] + added("2", z))
    assert f.trace(params, X).sites.paths == ("w1", "w2", "w3b")
    assert [site.d_hidden for site in f.trace(params, X).sites] == [4, 3, 4]


def test_neighbours_at_once_equal_one_after_another():
    f = lcjax.collapsible(chain)
    call = f.trace(f.init(CHAIN, X), X)
    replacements = {}
    for path, units in {"w1": [3, 1, 8, 12], "w2": [5, 0, 6]}.items():
        (segment,) = call.segments([path])
        last = segment.layers[-1]
        bias = last.get("bias", jnp.zeros(last["kernel"].shape[-1]))
        layers = (NewLayer(None, (0,)), NewLayer({"kernel": last["kernel"][np.array(units)]}, (1,)))
        replacements[segment] = Replacement(
            layers=layers, collapsed=(), units=np.array(units), bypass={"bias": bias}
        )
    at_once = call.rebuild(replacements).tree
    first = narrow(call, "w1", [3, 1, 8, 12]).tree
    both = narrow(f.trace(first, X), "w2", [5, 0, 6]).tree
    assert at_once["fused"].keys() == both["fused"].keys()
    close(at_once["fused"], both["fused"])


@pytest.mark.parametrize("sites", [("w1",), ("w2",), ("w3b",), ("w1", "w2"), ("w2", "w3b")])
@pytest.mark.parametrize("narrowed", [("w1",), ("w2",), ("w1", "w2"), ("w1", "w2", "w3b")])
def test_exact_collapse_next_to_units_equals_slope_1(narrowed, sites):
    f = lcjax.collapsible(chain)
    params = sloped(f.init(CHAIN, X), 1.0)
    for path in narrowed:
        call = f.trace(params, X)
        width = call.sites[call.sites.paths.index(path)].d_hidden
        params = narrow(call, path, RNG.permutation(width)[:5], kernel=True).tree
    after = {"w1": "w2", "w2": "w3b"}.get(sites[-1])
    if after in narrowed:  # its bypass reads what is collapsed
        with pytest.raises(CollapseError, match=f"{', '.join(sites)}: .* of {after}"):
            f.trace(params, X).collapse(sites)
        return
    compact, report = f.trace(params, X).collapse(sites)
    close(f(compact, X), f(params, X), terms=2000)
    assert report.collapsed == sites and f.trace(compact, X).collapsed == set(sites)
    whole, _ = f.trace(compact, X).collapse()
    close(f(whole, X), f(params, X), terms=2000)
    assert not f.trace(whole, X).sites


def test_fewer_units_of_those_that_stay():
    f = lcjax.collapsible(gated(nn.silu))
    first = narrow(f.trace(GATED, X), "w1", [1, 4, 15, 6]).tree
    second = narrow(f.trace(first, X), "w1", [0, 3]).tree
    close(f(second, X), f(narrow(f.trace(GATED, X), "w1", [1, 6]).tree, X))
    assert lcjax.FusedKey.parse(next(iter(second["fused"]))).narrow == {"w1": 2}


def test_dropout_between_runs_on_the_units_that_stay():
    f, units = lcjax.collapsible(dropped("select")), np.array([0, 3, 7])
    tree = narrow(f.trace(PAIR, X, KEY), "w1", units).tree
    h = nn.gelu(X @ PAIR["w1"][:, units] + PAIR["b1"][units])
    kept = jax.random.bernoulli(KEY, 0.8, (*X.shape[:-1], 16))[..., :3]
    close(f(tree, X, KEY), jnp.where(kept, h / 0.8, 0) @ PAIR["w2"][units] + PAIR["b2"])


def test_removed_pair_leaves_its_mean():
    f = lcjax.collapsible(lambda p, x: x[..., :4] + pair(nn.gelu)(p, x))
    call = f.trace(PAIR, X)
    (segment,) = call.segments(["w1"])
    mean = jnp.arange(4.0)
    gone = Replacement(layers=(), collapsed=("w1",), bypass={"bias": mean})
    rebuilt = call.rebuild({segment: gone})
    close(jax.jit(f)(rebuilt.tree, X), X[..., :4] + mean)
    assert lcjax.FusedKey.parse(next(iter(rebuilt.tree["fused"]))).forms == ("removed",)
    assert rebuilt.after == (4, 0) and not f.trace(rebuilt.tree, X).sites
    call = lcjax.collapsible(chain).trace(CHAIN, X)
    (segment,) = call.segments(["w3b"])
    with pytest.raises(CollapseError, match="w3b: got a pair to remove that is a part of a chain"):
        call.rebuild({segment: gone})


def test_activation_that_stays_between_new_layers():
    call = lcjax.collapsible(chain).trace(CHAIN, X)
    (segment,) = call.segments(["w1", "w2"])
    layers = tuple(
        NewLayer({**params, "kernel": params["kernel"] * 2}, (i,))
        for i, params in enumerate(segment.layers)
    )
    rebuilt = call.rebuild({segment: Replacement(layers=layers, collapsed=())})
    twice = CHAIN | {name: CHAIN[name] * 2 for name in ("w1", "w2", "w3b")}
    close(lcjax.collapsible(chain)(rebuilt.tree, X), chain(twice, X))


def test_wrong_uses_raise():
    f = lcjax.collapsible(pair(nn.gelu))
    call = f.trace(PAIR, X)
    with pytest.raises(CollapseError, match="w1: got 17 units"):
        narrow(call, "w1", np.zeros(17, int))
    scan = CASES["scan"]
    call = lcjax.collapsible(scan.fn).trace(scan.params, *scan.inputs)
    with pytest.raises(CollapseError, match="w1: is inside a loop or a branch"):
        narrow(call, "w1", [0, 1], down=jnp.ones((2, 6)))
    tree = narrow(f.trace(PAIR, X), "w1", [0, 1]).tree
    (key,) = tree["fused"]
    bad = tree | {"fused": {key.replace('"units": [2]', '"units": [3]'): tree["fused"][key]}}
    with pytest.raises(CollapseError, match=r"got a kernel of \(2, 2\), expected \(3, 3\)"):
        f(bad, X)
    bad = tree | {"fused": {key: {"layers": {"0": tree["fused"][key]["layers"]["0"]}}}}
    with pytest.raises(CollapseError, match="got 1 layers, expected 2"):
        f(bad, X)
    bad = tree | {"fused": {key.replace('"units": [2]', '"units": ["2"]'): tree["fused"][key]}}
    with pytest.raises(CollapseError, match="got a key that no collapse"):
        f(bad, X)


def test_norm_with_statistics_of_the_batch_raises():
    def normed(p, x, train):
        z = x @ p["w1"]
        mean = z.mean((0, 1), keepdims=True) if train else p["mean"][None, None]
        return nn.relu(z - mean) @ p["w2"]

    params = arrays(w1=(6, 16), w2=(16, 4), mean=(16,))
    f = lcjax.collapsible(normed)
    tree = narrow(f.trace(params, X, False), "w1", [2, 3]).tree
    assert f(tree, X, False).shape == (3, 5, 4)
    with pytest.raises(CollapseError, match="w1: `sub` between its layers needs more than"):
        f(tree, X, True)
