"""The classifier: its loss is cross entropy on what augmentation made, accuracy counts each row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax.models import MLP
from train.data.images.augment import augment, normalize
from train.data.images.splits import Split
from train.tasks.image.objective import ImageClassifier

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (10, 4, 4, 1), np.uint8)
LABELS = rng.integers(0, 3, 10).astype(np.int32)
MEAN, STD = (0.4,), (0.3,)
KEY = jax.random.key(3)


def classifier(crop_padding=0, flip=False, **fields):
    return ImageClassifier(MLP((12, 3), **fields), MEAN, STD, crop_padding, flip)


def entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(labels)), labels]
    return np.log(np.exp(logits).sum(-1)) - own


def parts(variables):
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


@pytest.fixture(scope="module")
def variables():
    return classifier().init(jax.random.key(0), (4, 4, 1))


def test_images_are_normalized_before_the_module(variables):
    ours = classifier()
    want = ours.module.apply(variables, normalize(jnp.asarray(IMAGES), MEAN, STD))
    np.testing.assert_allclose(ours.logits(variables, IMAGES), want, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_mean_cross_entropy_and_accuracy_comes_along(variables):
    ours = classifier()
    logits = ours.logits(variables, IMAGES)
    value, (stats, metrics) = jax.jit(ours.loss)(*parts(variables), (IMAGES, LABELS), KEY)
    np.testing.assert_allclose(value, entropy(logits, LABELS).mean(), rtol=1e-5)
    assert stats == {}
    assert float(metrics["train/accuracy"]) == np.mean(logits.argmax(-1) == LABELS)


def test_training_augments_by_the_steps_key_and_evaluation_does_not(variables):
    ours = classifier(crop_padding=1, flip=True)
    value, _ = jax.jit(ours.loss)(*parts(variables), (IMAGES, LABELS), KEY)
    changed = augment(jax.random.split(KEY)[0], jnp.asarray(IMAGES), crop_padding=1, flip=True)
    assert not np.array_equal(changed, IMAGES)
    want = entropy(classifier().logits(variables, changed), LABELS).mean()
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_array_equal(
        ours.logits(variables, IMAGES), classifier().logits(variables, IMAGES)
    )


def test_dropout_and_statistics_train_only():
    ours = classifier(dropout=0.5, norm="batch")
    variables = ours.init(jax.random.key(0), (4, 4, 1))
    params, stats = parts(variables)
    loss = jax.jit(ours.loss)
    first, second = (loss(params, stats, (IMAGES, LABELS), jax.random.key(i)) for i in (0, 1))
    assert first[0] != second[0]
    moved = first[1][0]
    before, after = (tree["batch_stats"]["mlp"]["norm_0"]["mean"] for tree in (stats, moved))
    assert np.abs(after - before).max() > 0
    evaluate = ours.evaluator(10)
    assert evaluate(variables, Split(IMAGES, LABELS)) == evaluate(variables, Split(IMAGES, LABELS))


@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_evaluation_counts_every_row_once_whatever_the_batch(variables, batch_size):
    ours = classifier()
    logits = np.asarray(ours.logits(variables, IMAGES))
    got = ours.evaluator(batch_size)(variables, Split(IMAGES, LABELS))
    assert got["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == LABELS), abs=1e-12)
    assert got["loss"] == pytest.approx(entropy(logits, LABELS).mean(), rel=1e-5)


def test_bfloat16_computes_in_half_and_keeps_params_and_loss_in_float32(variables):
    half = classifier(dtype=jnp.bfloat16)
    fresh = half.init(jax.random.key(0), (4, 4, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    products = str(jax.make_jaxpr(half.logits)(fresh, IMAGES)).count("bf16[10,12] = dot_general")
    assert products == 1
    inputs = (*parts(variables), (IMAGES, LABELS), KEY)
    (value, _), grads = jax.jit(jax.value_and_grad(half.loss, has_aux=True))(*inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    want, _ = jax.jit(classifier().loss)(*inputs)
    assert value.dtype == jnp.float32 and value != want
    np.testing.assert_allclose(value, want, rtol=2e-2)
