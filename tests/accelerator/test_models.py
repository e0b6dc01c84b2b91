"""Models on a device: a decoder with and without its cache, exports, and training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from lcjax.models import Decoder, DecoderConfig

CONFIG = DecoderConfig(11, 8, 2, 4, 2, 4, 12, max_length=16, windows=(3, None), qk_norm=True)
MODEL = Decoder(CONFIG)
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 9))


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    """Programs of other shapes round alike: by default a device may take other kernels for them."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def deep():
    """Variables of a decoder, every leaf random but for the slopes, which are 0."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), TOKENS)
    random = lambda leaf: jnp.asarray(rng.normal(0.3, 0.5, leaf.shape), leaf.dtype)
    return lcjax.map_slopes(jnp.zeros_like, jax.tree.map(random, shapes))


@pytest.fixture(scope="module")
def compact(deep):
    """The same with fewer units in every MLP."""
    data = lcjax.CalibrationData([TOKENS, TOKENS[:, ::-1].copy()], progress=False)
    return lcjax.collapse_sequential(MODEL.apply, deep, data, fit=lcjax.Units(5))[0]


@pytest.mark.parametrize("form", ["deep", "compact"])
def test_cached_decoding_equals_that_of_the_whole_text(form, request):
    variables = request.getfixturevalue(form)
    want = jax.jit(MODEL.apply)(variables, TOKENS)
    step = jax.jit(partial(MODEL.apply, mutable="cache"))
    logits, state = step(variables | {"cache": MODEL.init_cache(2, 9)}, TOKENS[:, :6])
    parts = [logits]
    for i in range(6, 9):
        logits, state = step(variables | state, TOKENS[:, i : i + 1])
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["embedded", "external"])
def test_exported_program_runs_here_as_the_model(compact, weights, tmp_path):
    pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
    lcjax.export(MODEL.apply, compact, [TOKENS], tmp_path / "program", weights=weights)
    loaded = lcjax.load_exported(tmp_path / "program")
    for tokens in (TOKENS, TOKENS[:1]):
        want = jax.jit(MODEL.apply)(compact, tokens)
        got = loaded(tokens.astype(np.int32))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.promotes
def test_training_with_a_penalty_makes_sites_linear_and_learns(deep):
    tx = lcjax.with_linearity_penalty(optax.adam(1e-2), strength=1.0, slope_learning_rate=0.1)

    def loss(variables):
        logits = MODEL.apply(variables, TOKENS[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:])
        return losses.mean()

    @partial(jax.jit, donate_argnums=0)
    def train(carry):
        def step(carry, _):
            variables, state = carry
            value, grads = jax.value_and_grad(loss)(variables)
            updates, state = tx.update(grads, state, variables)
            return (optax.apply_updates(variables, updates), state), value

        return jax.lax.scan(step, carry, length=60)

    start = jax.tree.map(jnp.copy, deep)
    (trained, _), losses = train((start, tx.init(start)))
    assert losses[-1] < losses[0]
    assert [float(slope) for slope in lcjax.slopes(trained).values()] == [1.0, 1.0]
    compact, report = lcjax.collapse(trained)
    assert len(report.collapsed) == 2
    got, want = (jax.jit(MODEL.apply)(tree, TOKENS) for tree in (compact, trained))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
