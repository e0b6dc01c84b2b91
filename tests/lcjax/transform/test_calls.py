"""How a collapsible function may be called: by name, with state, under transforms, in any dtype."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from lcjax import CollapseError
from tests.helpers.functions import (
    CASES,
    GATED,
    IMAGE,
    KEY,
    PAIR,
    STACKED,
    Pixels,
    X,
    arrays,
    close,
    dense,
    gated,
    linen,
    pair,
    scanned,
    sloped,
)
from tests.helpers.tolerance import assert_close

GELU = lcjax.collapsible(pair(jax.nn.gelu))


def test_call_takes_keywords_and_inputs_that_are_not_arrays():
    def fn(params, x, *, scale, mode, others):
        y = pair(jax.nn.gelu)(params, x * scale)
        return {"y": y + others[0], "mode": mode == "sum", "none": None}

    f = lcjax.collapsible(fn)
    call = dict(scale=jnp.float32(2), mode="sum", others=[X[..., :4], "unused"])
    params = f.init(PAIR, X, **call)
    close(f(params, X, **call), fn(PAIR, X, **call))
    compact, _ = f.trace(sloped(params, 1), X, **call).collapse()
    close(f(compact, X, **call)["y"], f(sloped(params, 1), X, **call)["y"])
    assert not f(params, X, **call | {"mode": "mean"})["mode"]
    assert not f(params, X, **call | {"mode": {1, 2}})["mode"]  # it need not be hashable


def test_call_distinguishes_static_inputs_by_type():
    f = lcjax.collapsible(lambda p, x, by: (pair(jax.nn.gelu)(p, x), jnp.asarray(by)))
    params = f.init(PAIR, X, 1)
    assert [f(params, X, by)[1].dtype for by in (1, True, 1.0)] == [jnp.int32, bool, jnp.float32]


def test_call_returns_auxiliary_outputs():
    fn = lambda p, x: (jnp.mean(pair(jax.nn.gelu)(p, x)), {"norm": jnp.sum(p["w1"] ** 2)})
    f = lcjax.collapsible(lambda p, x: (fn(p, x)[0], {"x": x}))
    params = f.init(PAIR, X)
    (_, aux), gradient = jax.value_and_grad(f, has_aux=True)(params, X)
    assert (aux["x"] == X).all() and gradient["slopes"]["w1"]["slope"].shape == ()
    with pytest.raises(CollapseError, match="kernel before it, w1, is used elsewhere too"):
        lcjax.collapsible(fn).init(PAIR, X)


def _summed(outs):
    return outs[0].sum(), outs[1]


@pytest.mark.slow
def test_batch_norm_runs_in_training_and_folds_at_inference():
    model, variables = Pixels(), linen(Pixels(), IMAGE)
    f = lcjax.collapsible(model.apply)
    train = dict(train=True, mutable=["batch_stats"])
    params = f.init(variables, IMAGE)

    @jax.jit
    def run(params, slope):
        bent = jax.value_and_grad(lambda tree: _summed(f(tree, IMAGE, **train)), has_aux=True)
        return f(params, IMAGE, **train), bent(sloped(params, slope))

    out, ((_, stats), gradient) = run(params, 0.5)
    want = jax.jit(lambda variables: model.apply(variables, IMAGE, **train))(variables)
    close(out, want)
    close(stats["batch_stats"]["norm"], want[1]["batch_stats"]["norm"])  # it is before the act
    assert gradient["slopes"]["up"]["slope"] != 0
    with pytest.raises(CollapseError, match="up: the norm in it uses the statistics of the batch"):
        f.trace(sloped(params, 1), IMAGE, **train).collapse()
    compact, _ = f.trace(sloped(params, 1), IMAGE).collapse()
    assert "norm" not in compact["model"]["params"] and "batch_stats" not in compact["model"]
    assert f(compact, IMAGE, **train)[1] == {}
    decayed = lambda v, x: (model.apply(v, x, **train), (v["params"]["up"]["kernel"] ** 2).sum())
    with pytest.raises(CollapseError, match="up/kernel: was fused away, and this.* Return less"):
        lcjax.collapsible(decayed)(compact, IMAGE)


def test_collapse_removes_dropout():
    case = CASES["dropout by select"]
    f = lcjax.collapsible(case.fn)
    params = f.init(case.params, X, KEY)
    assert not (f(params, X, KEY) == f(params, X, jax.random.key(6))).all()
    compact, _ = f.trace(sloped(params, 1), X, KEY).collapse()
    linear = pair(lambda z: z)(PAIR, X)
    close(f(compact, X, KEY), linear)
    close(f(compact, X, jax.random.key(6)), linear)


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_collapse_of_bfloat16_computation(stored):
    def fn(p, x):
        p = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p)
        return pair(jax.nn.gelu)(p, x.astype(jnp.bfloat16))

    model = jax.tree.map(lambda leaf: leaf.astype(stored), PAIR)
    f = lcjax.collapsible(fn)
    params = f.init(model, X)
    assert params["slopes"]["w1"]["slope"].dtype == jnp.float32
    assert (jax.jit(f)(params | {"slopes": {}}, X) == jax.jit(fn)(model, X)).all()
    linear = sloped(params, 1)
    compact, _ = f.trace(linear, X).collapse()
    (entry,) = compact["fused"].values()
    assert entry["kernel"].dtype == stored
    assert jax.eval_shape(f, compact, X).dtype == jnp.bfloat16
    exact = pair(lambda z: z)(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model), X)
    for tree in (linear, compact):
        assert_close(jax.jit(f)(tree, X), exact, dtype=jnp.bfloat16, terms=40)


def test_call_under_vmap():
    params = sloped(GELU.init(PAIR, X), 0.5)
    close(jax.vmap(GELU, (None, 0))(params, X), GELU(params, X))
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    close(jax.vmap(GELU, (0, None))(two, X)[1], GELU(doubled, X))


def test_call_within_shard_map():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    params = sloped(GELU.init(PAIR, X), 0.5)

    mean = lambda params, x: (GELU(params, x) ** 2).mean()
    local = lambda params, x: jax.lax.pmean(mean(params, x), "d")
    spread = jax.shard_map(local, mesh=mesh, in_specs=(jax.P(), jax.P("d")), out_specs=jax.P())
    got, want = jax.jit(lambda *call: [jax.grad(fn)(*call) for fn in (spread, mean)])(params, X)
    close(got, want)


def test_trace_of_long_activation_and_many_layers():
    def act(z):
        y = z
        for _ in range(400):
            y = jnp.sin(y) + z
        return y

    def many(p, x):
        for _ in range(400):
            x = x + p["step"]
        return pair(act)(p, jnp.concatenate([x, x[..., :2]], -1))

    f = lcjax.collapsible(many)
    model = PAIR | {"step": jnp.ones(4)}
    assert f.init(model, X[..., :4])["slopes"].keys() == {"w1"}


def test_call_with_captured_tracers():
    def loss(scale, x):
        f = lcjax.collapsible(lambda p, x: pair(jax.nn.gelu)(p, x) * scale)
        return f(sloped(f.init(PAIR, x), 0.5), x).sum()

    want = GELU(sloped(GELU.init(PAIR, X), 0.5), X).sum()
    close(jax.grad(loss)(jnp.float32(3), X), want)
    close(jax.jit(jax.grad(loss))(jnp.float32(3), X), want)


def test_call_reads_outside_state_again():
    class Model:
        scale = 1.0

        def apply(self, p, x):
            return pair(jax.nn.gelu)(p, self.scale * x)

    model = Model()
    f = lcjax.collapsible(model.apply)
    bent = sloped(f.init(PAIR, X), 0.5)
    compact, _ = f.trace(sloped(bent, 1), X).collapse()
    for model.scale in (1.0, 3.0):  # the bias makes none of these linear in the scale
        close(f(f.init(PAIR, X), X), model.apply(PAIR, X))
        close(f(bent, X), lcjax.collapsible(pair(jax.nn.gelu))(bent, model.scale * X))
        close(f(compact, X), lcjax.collapsible(pair(jax.nn.gelu))(compact, model.scale * X))
        close(jax.jit(lambda p: f(p, X))(bent), f(bent, X))


def test_function_frees_what_it_captured():
    big = jnp.ones(1000)
    f = lcjax.collapsible(lambda p, x, big=big: pair(jax.nn.gelu)(p, x + big[0]))
    params = f.init(PAIR, X)
    (
        f(sloped(params, 0.5), X),
        f.trace(params, X).calibrate(lcjax.CalibrationData([X], progress=False)),
    )
    left = weakref.ref(big)
    del f, big
    gc.collect()
    assert left() is None


def test_call_keeps_no_references():
    f = lcjax.collapsible(pair(jax.nn.gelu))
    params = sloped(f.init({name: leaf + 1 for name, leaf in PAIR.items()}, X), 0.5)
    with jax.checking_leaks():
        jax.jit(jax.grad(lambda params: f(params, X).sum()))(params)
    f(params, X)
    kernel = weakref.ref(params["model"]["w1"])
    del params
    gc.collect()
    assert kernel() is None


def flops(fn, *args):
    return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("name", ["scan", "SwiGLU", "1×1 convolutions"])
def test_flops_of_frozen_slopes_and_fused_sites(name):
    case = CASES[name]
    f = lcjax.collapsible(case.fn)
    params = f.init(case.params, *case.inputs)
    frozen = lambda model, *inputs: f(params | {"model": model}, *inputs)
    deep = flops(case.fn, case.params, *case.inputs)
    assert flops(frozen, case.params, *case.inputs) == deep
    assert flops(f, params | {"slopes": {}}, *case.inputs) == deep
    compact, report = f.trace(sloped(params, 1), *case.inputs).collapse()
    assert report.flops_after < report.flops_before
    assert flops(f, compact, *case.inputs) < deep


def test_collapse_of_scanned_layers():
    f = lcjax.collapsible(scanned)
    params = f.init(STACKED, X)
    (site,) = f.trace(params, X).sites
    assert (site.layers, site.slope) == (4, 0.0)
    some = params | {"slopes": {"w1": {"slope": jnp.array([1.0, 1.0, 0.5, 1.0])}}}

    def by_hand(x):
        for i, slope in enumerate([1.0, 1.0, 0.5, 1.0]):
            p = {name: leaf[i] for name, leaf in STACKED.items()}
            z = dense(p, 1, x)
            x = x + dense(p, 2, slope * z + (1 - slope) * jax.nn.gelu(z))
        return x

    close(f(some, X)[0], by_hand(X))
    with pytest.raises(CollapseError, match="w1: the largest gap of its 4 layers .* a Python loop"):
        f.trace(some, X).collapse("w1")
    compact, report = f.trace(some, X).collapse()
    assert not compact["fused"] and "Python loop in the place of lax.scan" in str(report.skipped[0])


def test_collapse_under_jit():
    params = sloped(GELU.init(PAIR, X), 1)
    compact, report = jax.jit(lambda p: GELU.trace(p, X).collapse("w1"))(params)
    close(compact, GELU.trace(params, X).collapse()[0])
    assert report.collapsed == ("w1",) and float(report.gaps["w1"]) == 0
    with pytest.raises(CollapseError, match="sites must be given"):
        jax.jit(lambda p: GELU.trace(p, X).collapse())(params)


def test_collapse_keeps_factors_that_are_smaller():
    model = arrays(w1=(16, 3), b1=(3,), w2=(3, 16), w3=(16, 16), b3=(16,))
    x = arrays(x=(4, 16))["x"]
    f = lcjax.collapsible(lambda p, x: dense(p, 3, jnp.tanh(pair(jax.nn.gelu)(p, x))))
    linear = sloped(f.init(model, x), 1)
    compact, report = f.trace(linear, x).collapse("w1")
    assert report.factored == ("w1",)
    shapes = [jax.tree.map(jnp.shape, entry) for entry in compact["fused"].values()]
    assert shapes == [{"0": {"bias": (3,), "kernel": (16, 3)}, "1": {"kernel": (3, 16)}}]
    close(f(compact, x), f(linear, x))
    both, report = f.trace(compact, x).collapse()
    assert report.factored == () and report.collapsed == ("w2",)
    at_once, report = f.trace(linear, x).collapse()
    assert report.factored == ("w1",)
    close(f(both, x), f(linear, x))
    close(jax.tree.map(lambda a, b: a - b, both, at_once), jax.tree.map(jnp.zeros_like, both))


@pytest.mark.promotes
def test_training_and_carried_optimizer_state():
    f = lcjax.collapsible(gated(jax.nn.silu))
    params = f.init(GATED, X)
    tx = lcjax.with_linearity_penalty(
        optax.adamw(1e-2, weight_decay=0.1), strength=10.0, sites="w1"
    )
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda p: (f(p, X) ** 2).mean())(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(30):
        params, state = step(params, state)
    assert params["slopes"]["w1"]["slope"] == 1
    compact, report = f.trace(params, X).collapse()
    state = lcjax.carry_opt_state(tx, state, params, compact, report)
    compact, state = step(compact, state)
    assert np.isfinite(f(compact, X)).all()
