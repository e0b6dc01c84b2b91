"""Every line of the tree contract (design §2)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze, meta

from lcjax import CollapseError, CollapsibleGLU, CollapsibleMLP, collapse
from tests.helpers.tolerance import assert_close
from tests.helpers.trees import random_chain

pytestmark = pytest.mark.usefixtures("strict_promotion")

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
FEATURES = (8, 7, 5)


def chain(**fields):
    return CollapsibleMLP(FEATURES, nn.relu, **fields)


@pytest.fixture(scope="module")
def variables():
    return chain().init(jax.random.key(1), X)


def linear(variables, *sites):
    """Returns the variables with the slopes of these activations (or all) at 1."""

    def one(keys, leaf):
        path = jax.tree_util.keystr(keys)
        chosen = not sites or any(f"'{site}'" in path for site in sites)
        return jnp.ones_like(leaf) if "slope" in path and chosen else leaf

    return jax.tree_util.tree_map_with_path(one, variables)


def without(variables, *names):
    held = variables["params"]
    return {"params": {name: child for name, child in held.items() if name not in names}}


def test_init_builds_the_deep_form_with_every_child_named(variables):
    names = {"dense_0", "act_0", "dense_1", "act_1", "dense_2"}
    assert set(variables["params"]) == names
    shapes = [variables["params"][f"dense_{i}"]["kernel"].shape for i in range(3)]
    assert shapes == [(6, 8), (8, 7), (7, 5)]


def test_deep_is_dense_activation_dense(variables):
    p, x = jax.tree.map(np.asarray, variables["params"]), X
    for i in range(3):
        x = x @ p[f"dense_{i}"]["kernel"] + p[f"dense_{i}"]["bias"]
        x = np.maximum(x, 0) if i < 2 else x
    assert_close(chain().apply(variables, X), x, dtype=jnp.float32, terms=100)


def test_a_dense_without_its_activation_is_linear_and_kept(variables):
    held = without(variables, "act_0")
    want = chain().apply(linear(variables, "act_0"), X)
    np.testing.assert_allclose(chain().apply(held, X), want, atol=1e-6)


def test_neither_held_runs_nothing_there(variables):
    p = jax.tree.map(np.asarray, variables["params"])
    fused = {
        "kernel": p["dense_0"]["kernel"] @ p["dense_1"]["kernel"],
        "bias": np.ones(7, np.float32),
    }
    held = {"params": {"dense_1": fused, "act_1": p["act_1"], "dense_2": p["dense_2"]}}
    out = chain().apply(held, X)
    want = np.maximum(X @ fused["kernel"] + 1, 0) @ p["dense_2"]["kernel"] + p["dense_2"]["bias"]
    np.testing.assert_allclose(out, want, atol=1e-5)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["dense_0"], "dense_0: missing, though params have act_0: params are half collapsed"),
        (["dense_2"], "dense_2: missing, though it is the last Dense: params are half"),
        (["dense_0", "dense_1", "dense_2"], "dense_0: missing, though params have act_0"),
    ],
)
def test_half_collapsed_params_are_an_error(variables, missing, message):
    with pytest.raises(CollapseError, match=message):
        chain().apply(without(variables, *missing), X)


@pytest.mark.parametrize("i", [0, 2])
def test_a_stored_width_other_than_features_is_an_error(variables, i):
    features = list(FEATURES)
    features[i] += 3
    stored = rf"dense_{i}: the kernel is {FEATURES[i]} wide in params, features\[{i}\] is"
    with pytest.raises(CollapseError, match=stored):
        CollapsibleMLP(features, nn.relu).apply(variables, X)


def test_a_factor_takes_its_width_from_the_tree(variables):
    held = without(variables, "act_0")["params"]
    narrow = {"kernel": jnp.ones((6, 2)), "bias": jnp.ones(2)}
    wide = {"kernel": jnp.ones((2, 7)), "bias": jnp.ones(7)}
    out = chain().apply({"params": held | {"dense_0": narrow, "dense_1": wide}}, X)
    assert out.shape == (4, 5)


def test_biases_come_from_the_tree():
    model = chain(use_bias=False)
    variables = model.init(jax.random.key(0), X)
    assert "bias" not in variables["params"]["dense_2"]
    bias = jnp.arange(5.0)
    held = variables["params"] | {"dense_2": variables["params"]["dense_2"] | {"bias": bias}}
    np.testing.assert_allclose(
        model.apply({"params": held}, X), model.apply(variables, X) + bias[None], atol=1e-6
    )


@pytest.mark.parametrize("left", ["params", "batch_stats"])
def test_a_norm_left_behind_is_an_error(left):
    model = chain(norm="batch")
    variables = model.init(jax.random.key(0), X)
    params = dict(variables["params"])
    stats = dict(variables["batch_stats"])
    del params["act_0"]
    del (stats if left == "params" else params)["norm_0"]
    with pytest.raises(CollapseError, match="norm_0: found without act_0"):
        model.apply({"params": params, "batch_stats": stats}, X)


def test_another_norm_than_the_module_says_is_an_error(variables):
    with pytest.raises(
        CollapseError, match="norm_0: missing, though params have act_0 and norm is"
    ):
        chain(norm="batch").apply(variables, X)
    normed = chain(norm="batch").init(jax.random.key(0), X)
    with pytest.raises(
        CollapseError, match="norm_0: found, though params have act_0 and norm is None"
    ):
        chain().apply(normed, X)


def test_fields_are_checked():
    with pytest.raises(ValueError, match="features is empty"):
        CollapsibleMLP(()).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="norm is 'layer'; expected None or 'batch'"):
        chain(norm="layer").init(jax.random.key(0), X)


def test_norm_and_dropout_sit_after_the_activation_and_only_train():
    model = CollapsibleMLP((8, 5), nn.relu, norm="batch", dropout=0.5)
    variables = model.init(jax.random.key(0), X)
    out, updates = model.apply(
        variables,
        X,
        deterministic=False,
        rngs={"dropout": jax.random.key(1)},
        mutable=["batch_stats"],
    )
    p = jax.tree.map(np.asarray, variables["params"])
    h = np.maximum(X @ p["dense_0"]["kernel"] + p["dense_0"]["bias"], 0)
    got = updates["batch_stats"]["norm_0"]["mean"]
    np.testing.assert_allclose(got, 0.1 * h.mean(0), atol=1e-6)
    assert not np.allclose(out, model.apply(variables, X))
    compact, _ = collapse(linear(variables))
    quiet = model.apply(compact, X, deterministic=False, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(quiet, model.apply(compact, X))


def test_boxed_params_run_and_collapse():
    names = nn.with_partitioning(nn.initializers.lecun_normal(), ("data", "model"))
    model = chain(kernel_init=names)
    boxed = linear(model.init(jax.random.key(0), X))
    kernel = boxed["params"]["dense_0"]["kernel"]
    assert isinstance(kernel, meta.AxisMetadata)
    compact, _ = collapse(boxed)
    fused = compact["params"]["dense_2"]["kernel"]
    assert isinstance(fused, nn.Partitioned) and fused.names == ("data", "model")
    np.testing.assert_allclose(model.apply(compact, X), model.apply(boxed, X), atol=1e-5)


class Shared(nn.Module):
    """A parent whose scope the chain shares, with a child and a norm of its own."""

    @nn.compact
    def __call__(self, x):
        mlp = chain(name="mlp")
        nn.share_scope(self, mlp)
        x = nn.Dense(6, name="stem")(x)
        return nn.LayerNorm(name="norm_0")(mlp(x))


def test_a_shared_scope_holds_others_children():
    variables = Shared().init(jax.random.key(0), X)
    assert {"stem", "norm_0", "dense_0", "act_1"} <= set(variables["params"])
    out = Shared().apply(variables, X)
    compact = without(linear(variables, "act_1"), "act_1")
    np.testing.assert_allclose(
        Shared().apply(compact, X), Shared().apply(linear(variables, "act_1"), X), atol=1e-5
    )
    assert out.shape == (4, 5)


class Remat(nn.Module):
    kind: type[nn.Module]
    widths: tuple

    @nn.compact
    def __call__(self, x):
        return nn.remat(self.kind)(*self.widths, name="mlp")(x)


class Scan(nn.Module):
    kind: type[nn.Module]
    widths: tuple

    @nn.compact
    def __call__(self, x):
        body = nn.scan(
            lambda mlp, x, _: (mlp(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        return body(self.kind(*self.widths, name="mlp"), x, None)[0]


class Vmap(nn.Module):
    kind: type[nn.Module]
    widths: tuple

    @nn.compact
    def __call__(self, x):
        stacked = nn.vmap(
            self.kind,
            in_axes=None,
            out_axes=0,
            axis_size=3,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        return stacked(*self.widths, name="mlp")(x)


@pytest.mark.slow
@pytest.mark.parametrize("outer", [Remat, Scan, Vmap])
@pytest.mark.parametrize(
    ("kind", "widths", "site"),
    [(CollapsibleMLP, ((8, 6),), "mlp/act_0"), (CollapsibleGLU, (8, 6), "mlp/act")],
    ids=["mlp", "glu"],
)
def test_lifted_transforms_run_both_forms(outer, kind, widths, site):
    model = outer(kind, widths)
    deep = linear(model.init(jax.random.key(0), X))
    compact, report = collapse(deep)
    assert report.collapsed == (site,)
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(compact, X), apply(deep, X), atol=1e-4)
    grads = jax.grad(lambda v: (model.apply(v, X) ** 2).sum())(compact)
    assert jax.tree.structure(grads) == jax.tree.structure(compact)


def test_frozen_dict_and_plain_vmap(variables):
    np.testing.assert_array_equal(chain().apply(freeze(variables), X), chain().apply(variables, X))
    rows = jax.vmap(partial(chain().apply, variables))(X)
    np.testing.assert_allclose(rows, chain().apply(variables, X), atol=1e-6)


def test_map_variables_sees_the_form_of_what_it_maps(variables):
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            double = lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree)
            mapped = nn.map_variables(CollapsibleMLP, "params", double, init=self.is_initializing())
            return mapped(FEATURES, nn.relu, name="mlp")(x)

    held = {"params": {"mlp": without(variables, "act_0")["params"]}}
    double = jax.tree.map(lambda leaf: 2 * leaf, held["params"]["mlp"])
    want = chain().apply({"params": double}, X)
    np.testing.assert_allclose(Scaled().apply(held, X), want, atol=1e-5)


def test_partial_init_and_eval_shape():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return chain(name="b")(chain(name="a")(x))

    model = Two()
    x = jnp.ones((2, 6))
    whole = model.init(jax.random.key(0), x)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, whole) == jax.tree.map(lambda s: s.shape, shapes)
    part = {"params": {"a": whole["params"]["a"]}}
    _, filled = model.apply(part, x, mutable=["params"], rngs={"params": jax.random.key(0)})
    assert set(filled["params"]["b"]) == set(whole["params"]["b"])
    np.testing.assert_array_equal(
        filled["params"]["a"]["dense_0"]["kernel"], whole["params"]["a"]["dense_0"]["kernel"]
    )


@pytest.mark.parametrize("features", [(5,), (8, 5), (9, 8, 7, 6, 4, 5)])
def test_a_chain_may_be_of_any_length(features):
    model, deep = random_chain(features, X.shape[1])
    built = jax.eval_shape(model.init, jax.random.key(0), X)
    assert jax.tree.map(np.shape, deep) == jax.tree.map(np.shape, built)
    want = jax.jit(model.apply)(deep, X)
    if len(features) > 1:
        deep, _ = collapse(deep)
        assert set(deep["params"]) == {f"dense_{len(features) - 1}"}
    assert_close(jax.jit(model.apply)(deep, X), want, dtype=jnp.float32, terms=1000)


def test_intermediates_are_those_of_the_form_that_is_held(variables):
    def captured(held):
        out, state = chain().apply(held, X, capture_intermediates=True)
        seen = {name: child["__call__"][0] for name, child in _children(state).items()}
        np.testing.assert_array_equal(seen[f"dense_{len(FEATURES) - 1}"], out)
        return seen

    deep, compact = captured(variables), captured(without(variables, "act_0"))
    assert set(deep) == set(variables["params"])
    assert set(compact) == set(variables["params"]) - {"act_0"}
    np.testing.assert_array_equal(compact["dense_0"], deep["dense_0"])
    np.testing.assert_array_equal(deep["act_0"], nn.relu(deep["dense_0"]))


def _children(state):
    return {name: child for name, child in state["intermediates"].items() if name != "__call__"}


def test_initializers_make_the_kernels_and_the_biases_and_slopes_start_at_zero():
    init = nn.initializers.constant
    for model in (
        CollapsibleMLP(FEATURES, kernel_init=init(0.5), bias_init=init(0.25)),
        CollapsibleGLU(8, 5, use_bias=True, kernel_init=init(0.5), bias_init=init(0.25)),
    ):
        held = jax.jit(model.init)(jax.random.key(0), X)["params"]
        for child in held.values():
            for name, leaf in child.items():
                assert (leaf == {"kernel": 0.5, "bias": 0.25, "slope": 0.0}[name]).all()


@pytest.mark.slow
def test_computes_in_dtype_and_stores_in_param_dtype():
    model = chain(dtype=jnp.bfloat16, param_dtype=jnp.float32)
    variables = model.init(jax.random.key(0), X)
    assert variables["params"]["dense_0"]["kernel"].dtype == jnp.float32
    assert model.apply(variables, X).dtype == jnp.bfloat16
    half = chain(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16).init(jax.random.key(0), X)
    assert half["params"]["act_0"]["slope"].dtype == jnp.float32


def glu(hidden=9, features=5, **fields):
    return CollapsibleGLU(hidden, features, nn.silu, **fields)


def test_gated_mlp_is_its_formula():
    variables = glu().init(jax.random.key(0), X)
    p = {name: child["kernel"] for name, child in variables["params"].items() if name != "act"}
    want = (nn.silu(X @ p["gate"]) * (X @ p["up"])) @ p["down"]
    np.testing.assert_allclose(glu().apply(variables, X), want, atol=1e-5)


@pytest.mark.parametrize(("hidden", "held"), [(9, {"down"}), (2, {"up", "down"})])
@pytest.mark.parametrize("use_bias", [True, False])
def test_collapsed_gated_mlp_saves_its_gate(hidden, held, use_bias):
    model = glu(hidden, use_bias=use_bias)
    deep = linear(model.init(jax.random.key(0), X))
    compact, report = collapse(deep)
    assert set(compact["params"]) == held
    assert report.factored == (("act",) if len(held) == 2 else ())
    np.testing.assert_allclose(model.apply(compact, X), model.apply(deep, X), atol=1e-5)


def test_gated_mlp_takes_biases_and_the_width_of_a_factor_from_the_tree():
    model = glu()
    deep = linear(model.init(jax.random.key(0), X))
    p = deep["params"]
    narrow = {"up": {"kernel": jnp.ones((6, 2)), "bias": jnp.ones(2)}}
    narrow |= {"down": {"kernel": jnp.ones((2, 5)), "bias": jnp.arange(5.0)}}
    want = (X.sum(1, keepdims=True) + 1) * 2 + np.arange(5)[None]
    np.testing.assert_allclose(model.apply({"params": narrow}, X), want, atol=1e-5)
    biased = p | {"down": p["down"] | {"bias": jnp.arange(5.0)}}
    got = model.apply({"params": biased}, X) - model.apply(deep, X)
    np.testing.assert_allclose(got, np.tile(np.arange(5), (4, 1)), atol=1e-5)
    compact, _ = collapse({"params": biased})
    np.testing.assert_allclose(compact["params"]["down"]["bias"], np.arange(5))


def test_gated_mlp_in_boxes_and_frozen():
    names = nn.with_partitioning(nn.initializers.lecun_normal(), ("data", "model"))
    model = glu(kernel_init=names)
    boxed = linear(model.init(jax.random.key(0), X))
    compact, _ = collapse(freeze(boxed))
    assert compact["params"]["down"]["kernel"].names == ("data", "model")
    np.testing.assert_allclose(model.apply(compact, X), model.apply(boxed, X), atol=1e-5)


@pytest.mark.parametrize("missing", ["gate", "act", "up", "down"])
def test_half_collapsed_gated_mlp_is_an_error(missing):
    variables = glu().init(jax.random.key(0), X)
    with pytest.raises(CollapseError, match="of gate, up, act, down: half collapsed"):
        glu().apply(without(variables, missing), X)


@pytest.mark.parametrize("fields", [{"hidden": 4}, {"features": 3}])
def test_gated_mlp_of_another_width_is_an_error(fields):
    variables = glu().init(jax.random.key(0), X)
    with pytest.raises(CollapseError, match="wide in params, the module says"):
        glu(**fields).apply(variables, X)
