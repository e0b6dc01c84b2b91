"""Running statistics: in the params or as state, folded in, and training on after a collapse."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lcjax

X = jax.random.normal(jax.random.key(0), (32, 6))
Y = (X[:, 0] > 0).astype(int)


class Net(nn.Module):
    """Three Dense layers, each with a batch norm and relu after it."""

    @nn.compact
    def __call__(self, x, train):
        for i in range(3):
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"bn{i}")
            x = nn.relu(norm(nn.Dense(8, name=f"d{i}")(x)))
        return nn.Dense(2, name="out")(x)


NET = Net()


@pytest.fixture(scope="module")
def variables():
    start = jax.jit(NET.init, static_argnums=2)(jax.random.key(0), X, False)
    moved = jax.tree.map(lambda leaf: 0.7 * leaf + 0.1, start["batch_stats"])
    return {**start, "batch_stats": moved}


def training(variables, x):
    return NET.apply(variables, x, True, mutable=["batch_stats"])


def left(variables, x):
    y, new = training(variables, x)
    return y, {name: new["batch_stats"][name] for name in ("bn0", "bn2")}


def linear(tree, *sites):
    slopes = {path: {"slope": jnp.float32(path in sites)} for path in tree["slopes"]}
    return {**tree, "slopes": slopes}


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


@pytest.mark.slow
def test_collapse_removes_statistics_among_params(variables):
    inference = lcjax.collapsible(lambda v, x: NET.apply(v, x, False))
    compact, _ = inference.trace(linear(inference.init(variables, X), "d1"), X).collapse()
    y, new = jax.jit(lcjax.collapsible(training))(compact, X)
    close((y, new["batch_stats"]), jax.jit(lcjax.collapsible(left))(compact, X))
    updated = {**compact, "model": {**compact["model"], **new}}
    assert jax.tree.structure(updated) == jax.tree.structure(compact)
    assert not np.allclose(inference(updated, X), inference(compact, X))


def applied(params, state, x, train):
    y, new = NET.apply({"params": params, **state}, x, train, mutable=["batch_stats"])
    return y, new


@pytest.mark.slow
@pytest.mark.promotes
def test_collapse_folds_state_that_is_not_trained(variables):
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    f = lcjax.collapsible(applied, has_state=True)
    tree = linear(f.init(params, state, X, False), "d1")
    assert tree["model"] is params
    compact, report = f.trace(tree, state, X, False).collapse()
    assert report.collapsed == ("d1",)
    close(f(compact, state, X, False)[0], f(tree, state, X, False)[0])
    tx = optax.adamw(1e-2, weight_decay=0.1)

    @jax.jit
    def step(tree, state, opt_state):
        def loss(tree):
            y, new = f(tree, state, X, True)
            return optax.softmax_cross_entropy_with_integer_labels(y, Y).mean(), new

        gradient, new = jax.grad(loss, has_aux=True)(tree)
        updates, opt_state = tx.update(gradient, opt_state, tree)
        return optax.apply_updates(tree, updates), new, opt_state

    trained, new, _ = step(compact, state, tx.init(compact))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    close(new["batch_stats"]["bn1"], state["batch_stats"]["bn1"])
    whole = lcjax.collapsible(lambda v, x: NET.apply(v, x, False))
    both, _ = whole.trace(linear(whole.init(variables, X), "d1"), X).collapse()
    others = lcjax.collapsible(left)(both, X)[1]
    close({name: new["batch_stats"][name] for name in others}, others)
    again, _ = f.trace(linear(trained, "d0"), new, X, False).collapse()  # with statistics of now
    close(f(again, new, X, False)[0], f(linear(trained, "d0"), new, X, False)[0])


@pytest.mark.slow
def test_calibrate_uses_state_of_the_call(variables):
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    f = lcjax.collapsible(lambda *inputs: applied(*inputs, False)[0], has_state=True)
    tree = f.init(params, state, X)
    stats = f.trace(tree, state, X).calibrate(lcjax.CalibrationData([X], progress=False), ["d1"])
    whole = lcjax.collapsible(lambda v, x: NET.apply(v, x, False))
    want = whole.trace(whole.init(variables, X), X).calibrate(
        lcjax.CalibrationData([X], progress=False), ["d1"]
    )
    close(stats.train, want.train)
    compact, report = f.trace(tree, state, X).collapse(calibration=stats)
    assert report.collapsed == ("d1",) and f(compact, state, X).shape == (32, 2)
    with pytest.raises(TypeError, match="got no argument after the params, expected the state"):
        f.trace(tree)


def test_lost_statistics_of_moving_average():
    """As Haiku's: what is folded in is not what the next average is made from."""

    def fn(params, state, x, train):
        z, ema = x @ params["w1"], state["ema"]
        hidden, mean = ema["hidden"], ema["average"]
        if train:
            mean = z.mean(0)
            hidden = 0.9 * ema["hidden"] + 0.1 * mean
        average = hidden / (1 - 0.9 ** ema["count"]) if train else ema["average"]
        new = {"ema": {"hidden": hidden, "average": average, "count": ema["count"] + 1}}
        return nn.relu(z - mean) @ params["w2"], new

    keys = jax.random.split(jax.random.key(0), 4)
    params = {"w1": jax.random.normal(keys[0], (6, 8)), "w2": jax.random.normal(keys[1], (8, 3))}
    hidden, average = jax.random.normal(keys[2], (2, 8))
    state = {"ema": {"hidden": hidden, "average": average, "count": jnp.float32(3)}}
    f = lcjax.collapsible(fn, has_state=True)
    compact, _ = f.trace(linear(f.init(params, state, X, False), "w1"), state, X, False).collapse()
    y, new = f(compact, state, X, True)
    close(y, (X @ params["w1"] - average) @ params["w2"])
    close(new, {"ema": {"hidden": hidden, "average": average, "count": 4.0}})


def test_lost_statistics_in_list():
    """As Keras's: known by what they are updated from, since a place in a list says little."""

    def fn(params, state, x, train):
        z, (_, mean) = x @ params[0], state
        new = 0.9 * mean + 0.1 * z.mean(0)
        y = nn.relu(z - (z.mean(0) if train else mean)) @ params[1]
        return y, [state[0] + 1, new if train else mean]

    keys = jax.random.split(jax.random.key(0), 3)
    params = [jax.random.normal(keys[0], (6, 8)), jax.random.normal(keys[1], (8, 3))]
    state = list(jax.random.normal(keys[2], (2, 8)))
    f = lcjax.collapsible(fn, has_state=True)
    tree = f.init(params, state, X, False)
    compact, _ = f.trace(linear(tree, *tree["slopes"]), state, X, False).collapse()
    close(f(compact, state, X, True)[1], [state[0] + 1, state[1]])


def test_collapse_with_nnx_batch_statistics():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.up = nnx.Linear(6, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.down = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.down(nnx.relu(self.norm(self.up(x))))

    graph, params, state, rest = nnx.split(Model(nnx.Rngs(0)), nnx.Param, nnx.BatchStat, ...)

    def fn(params, state, x, train):
        model = nnx.merge(graph, params, state, rest)
        model.train() if train else model.eval()
        return model(x), nnx.state(model, nnx.BatchStat)

    f = lcjax.collapsible(fn, has_state=True)
    tree = f.init(params, state, X, False)
    (path,) = tree["slopes"]
    compact, _ = f.trace(linear(tree, path), state, X, False).collapse()
    close(f(compact, state, X, False)[0], f(linear(tree, path), state, X, False)[0])
    y, new = f(compact, state, X, True)
    close(y, f(compact, state, X, False)[0])
    close(new, state)
