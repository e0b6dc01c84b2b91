"""`lcjax.linen.Collapsed`: the model's `init` and `apply`, for slopes and compact params."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from flax.training.train_state import TrainState

import lcjax
from lcjax.linen import Collapsed
from tests.helpers.functions import close
from tests.lcjax.linen.models import LENGTH, VOCAB, Classifier, Decoder, Parent

KEY = jax.random.key(0)
TOKENS = jax.random.randint(jax.random.key(1), (3, LENGTH), 0, VOCAB)
IMAGES = jax.random.normal(jax.random.key(2), (32, 5))
RNGS = {"params": KEY, "dropout": jax.random.key(3)}
SITES = ("block_0/up", "block_1/up")


@pytest.fixture(scope="module")
def decoder():
    """A decoder's own variables, and compact ones with its last pair fused."""
    variables = init(Decoder(), KEY, TOKENS)
    call = Collapsed(Decoder()).trace(variables, TOKENS)
    compact, report = call.collapse(calibration=call.calibrate([TOKENS], SITES[1]))
    assert report.collapsed == SITES[1:]
    return variables, compact


def init(module, *args):
    """What `module.init` returns, compiled as one program."""
    return jax.jit(module.init)(*args)


def linear(variables):
    """The variables with every slope 1."""
    return {**variables, "params": lcjax.map_slopes(jnp.ones_like, variables["params"])}


@pytest.mark.slow
def test_init_adds_slopes_of_0_and_apply_is_the_models():
    module, model = Collapsed(Decoder()), Decoder()
    variables, own = init(module, RNGS, TOKENS), init(model, RNGS, TOKENS)
    assert tuple(lcjax.slopes(variables["params"])) == SITES
    expected = jax.jit(model.apply)(own, TOKENS)
    close(jax.jit(module.apply)(variables, TOKENS), expected)
    np.testing.assert_array_equal(jax.jit(module.apply)(own, TOKENS), expected)
    out, same = jax.eval_shape(module.init_with_output, RNGS, TOKENS)
    assert out.shape == (3, LENGTH, VOCAB)
    assert jax.tree.structure(same) == jax.tree.structure(variables)


def test_slope_1_collapses_exactly_and_the_input_is_unchanged():
    module = Collapsed(Decoder())
    variables = linear(init(module, KEY, TOKENS))
    compact, report = module.trace(variables, TOKENS).collapse()
    assert report.collapsed == SITES and report.parameters_after < report.parameters_before
    assert "up" not in compact["params"]["model"]["block_0"]
    assert "up" in variables["params"]["model"]["block_0"]
    apply = jax.jit(module.apply)
    close(apply(compact, TOKENS), apply(variables, TOKENS))
    assert module.trace(compact, TOKENS).sites.paths == ()


@pytest.mark.slow
def test_cache_decodes_as_the_whole_sequence(decoder):
    _, compact = decoder
    expected = Collapsed(Decoder()).apply(compact, TOKENS)
    module = Collapsed(Decoder(decode=True))
    cache = init(module, KEY, TOKENS)["cache"]

    @jax.jit
    def step(cache, token):
        variables = {"params": compact["params"], "cache": cache}
        logits, updates = module.apply(variables, token, mutable=["cache"])
        assert set(updates) == {"cache"}
        return updates["cache"], logits

    rows = []
    for i in range(LENGTH):
        cache, logits = step(cache, TOKENS[:, i : i + 1])
        rows.append(logits)
    close(jnp.concatenate(rows, 1), expected)


@pytest.mark.slow
def test_dropout_draws_what_the_model_draws(decoder):
    variables, _ = decoder
    module, rngs = Collapsed(Decoder()), {"dropout": jax.random.key(4)}
    slopes = module.trace(variables, TOKENS).variables
    got = module.apply(slopes, TOKENS, train=True, rngs=rngs)
    np.testing.assert_array_equal(got, Decoder().apply(variables, TOKENS, train=True, rngs=rngs))


@pytest.mark.slow
def test_compact_params_keep_the_dropout_of_what_is_left(decoder):
    _, compact = decoder
    module, keys = Collapsed(Decoder()), [{"dropout": jax.random.key(i)} for i in (4, 4, 5)]
    first, same, other = (module.apply(compact, TOKENS, True, rngs=rngs) for rngs in keys)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["features", Decoder.features, Decoder().features])
def test_method_is_one_of_the_model(method, decoder):
    variables, compact = decoder
    module = Collapsed(Decoder())
    expected = Decoder().apply(variables, TOKENS, method="features")
    close(module.apply(compact, TOKENS, method=method), expected)
    call = module.trace(variables, TOKENS, method=method)
    assert call.sites.paths == SITES[:1]
    compact, _ = call.collapse(calibration=call.calibrate([TOKENS]))
    assert module.apply(compact, TOKENS, method=method).shape == expected.shape


def test_call_itself_may_be_the_method(decoder):
    _, compact = decoder
    module = Collapsed(Decoder())
    expected = module.apply(compact, TOKENS)
    for method in (module.__call__, Collapsed.__call__, "__call__"):
        np.testing.assert_array_equal(module.apply(compact, TOKENS, method=method), expected)


def test_attributes_are_those_of_the_model():
    module = Collapsed(Decoder(info="gemma"))
    assert module.info == "gemma" and module.empty_cache(2)["rows"].shape == (2,)
    assert hash(module) == hash(Collapsed(Decoder(info="gemma")))  # static under jit
    with pytest.raises(AttributeError, match='has no attribute "nothing"'):
        _ = module.nothing


def test_bound_module_runs_its_variables(decoder):
    _, compact = decoder
    module = Collapsed(Decoder())
    bound = module.bind(compact)
    close(bound(TOKENS), module.apply(compact, TOKENS))
    close(bound.features(TOKENS), module.apply(compact, TOKENS, method="features"))


@pytest.mark.slow
def test_batch_norm_trains_and_folds():
    module = Collapsed(Classifier())
    variables = linear(init(module, KEY, IMAGES))
    assert set(variables) == {"params", "batch_stats"}
    out, updates = module.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    assert out.shape == (32, 3) and np.any(updates["batch_stats"]["norm"]["mean"] != 0)
    variables = {**variables, **updates}
    compact, report = module.trace(variables, IMAGES).collapse()
    assert report.collapsed == ("up",)
    close(module.apply(compact, IMAGES), module.apply(variables, IMAGES))
    _, same = module.apply(compact, IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(
        same["batch_stats"]["norm"]["mean"], updates["batch_stats"]["norm"]["mean"]
    )


@pytest.mark.slow
@pytest.mark.promotes
def test_train_state_trains_slopes_and_compact_params():
    module = Collapsed(nn.Sequential([nn.Dense(16), nn.gelu, nn.Dense(3)]))
    labels = jnp.arange(32) % 3
    params = init(module, KEY, IMAGES)["params"]
    tx = lcjax.with_linearity_penalty(optax.adam(1e-2), strength=10.0)
    state = TrainState.create(apply_fn=module.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        def loss(params):
            logits = state.apply_fn({"params": params}, IMAGES)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    for _ in range(3):
        state, _ = step(state)
    assert all(slope > 0 for slope in lcjax.slopes(state.params).values())
    variables = linear({"params": state.params})
    compact, report = module.trace(variables, IMAGES).collapse()
    opt_state = lcjax.carry_opt_state(tx, state.opt_state, state.params, compact["params"], report)
    state = state.replace(params=compact["params"], opt_state=opt_state)
    state, before = step(state)
    for _ in range(3):
        state, after = step(state)
    assert after < before


@pytest.mark.slow
def test_plan_and_sequential_return_variables(decoder):
    variables, _ = decoder
    module = Collapsed(Decoder())
    call = module.trace(variables, TOKENS)
    plan = call.plan_fits([TOKENS], budget=lcjax.Params(0.9), candidates=[lcjax.LeastSquares()])
    compact, report = call.collapse_sequential([TOKENS], fit=plan.fits)
    assert report.collapsed and module.apply(compact, TOKENS).shape == (3, LENGTH, VOCAB)
    seen = []

    def metric(variables):
        seen.append(module.apply(variables, TOKENS))
        return -float(jnp.abs(seen[-1] - seen[0]).mean())

    table = call.sensitivity(metric, [TOKENS])
    assert len(seen) == 3 and len(table.costs) == 2


def test_frozen_variables_and_all_collections_mutable(decoder):
    _, compact = decoder
    module = Collapsed(Decoder())
    expected = module.apply(compact, TOKENS)
    out, updates = module.apply(freeze(compact), TOKENS, mutable=True)
    np.testing.assert_array_equal(out, expected)
    assert set(updates) == {"params"}
    close(module.apply(updates, TOKENS), expected)


def test_captured_intermediates_are_those_that_are_left(decoder):
    _, compact = decoder
    module = Collapsed(Decoder())
    norms = lambda module, _: isinstance(module, nn.LayerNorm)
    _, updates = module.apply(compact, TOKENS, capture_intermediates=norms)
    assert set(updates["intermediates"]["block_1"]) == {"norm_0", "norm_1"}
    with pytest.raises(lcjax.CollapseError, match="its hidden value is returned by the function"):
        module.apply(compact, TOKENS, capture_intermediates=True)


@pytest.mark.parametrize("inner", [Classifier(), nn.Sequential([Classifier()])])
def test_submodule_has_its_tree_in_the_parents_params(inner):
    parent = Parent(Collapsed(Classifier()))
    variables = init(parent, KEY, IMAGES)
    assert set(variables["params"]["inner"]) == {"model", "slopes", "fused"}
    _, updates = parent.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    assert np.any(updates["batch_stats"]["inner"]["norm"]["mean"] != 0)
    tree = linear({"params": variables["params"]})
    variables = {**variables, **tree, **updates}
    own = {name: tree["inner"] for name, tree in variables.items()}
    inner, report = Collapsed(Classifier()).trace(own, nn.tanh(IMAGES)).collapse()
    assert report.collapsed == ("up",)
    compact = {name: {**variables[name], "inner": inner[name]} for name in variables}
    close(jax.jit(parent.apply)(compact, IMAGES), parent.apply(variables, IMAGES))
    tx = lcjax.with_linearity_penalty(optax.sgd(0.1), strength=0.1)
    assert jax.tree.leaves(tx.init(variables["params"]))


def test_errors_say_what_to_do():
    with pytest.raises(lcjax.CollapseError, match="the function has no site"):
        Collapsed(nn.Dense(3)).init(KEY, IMAGES)
    with pytest.raises(TypeError, match="model: got .*expected a Flax linen module"):
        Collapsed(lambda x: x).init(KEY, IMAGES)
    with pytest.raises(TypeError, match="variables: got .*expected a mapping of collections"):
        Collapsed(Classifier()).apply(None, IMAGES)
