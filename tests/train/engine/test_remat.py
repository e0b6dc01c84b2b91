"""Blocks that are computed again in the backward pass: less is kept, the gradient stays."""

import chex
import jax
import jax.numpy as jnp
import pytest

import lcjax
from lcjax.models import BERT, GPT2, MLPMixer, ViT
from tests.helpers.runs import configured, prepare
from train.validation import ConfigError

pytestmark = pytest.mark.slow

_IMAGES, _TOKENS = jnp.ones((4, 8, 8, 3)), jnp.arange(48).reshape(4, 12) % 11
_WIDTHS = dict(depth=2, width=8, num_heads=2, mlp_hidden=32)
MODELS = {
    "mixer": (
        MLPMixer(3, patch_size=4, depth=2, width=8, token_hidden=16, channel_hidden=32),
        _IMAGES,
    ),
    "vit": (ViT(3, patch_size=2, **_WIDTHS), _IMAGES),
    "bert": (BERT(vocab_size=11, max_length=12, num_classes=3, **_WIDTHS), _TOKENS),
    "gpt2": (GPT2(vocab_size=11, max_length=12, **_WIDTHS), _TOKENS),
}


def _shapes(name):
    model, inputs = MODELS[name]
    return jax.eval_shape(model.init, jax.random.key(0), inputs)


def _bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", MODELS)
def test_less_is_kept_for_the_backward_pass(name):
    (model, inputs), variables = MODELS[name], _shapes(name)
    kept = {}
    for remat in (False, True):
        apply = model.clone(remat=remat).apply
        pull = jax.eval_shape(
            lambda v, run=apply: jax.vjp(lambda v: run(v, inputs), v)[1], variables
        )
        kept[remat] = _bytes(pull) - _bytes(variables)
    assert kept[True] < 0.5 * kept[False]


@pytest.mark.parametrize("name", ["mixer", "gpt2"])
def test_the_gradient_stays(name):
    model, inputs = MODELS[name]
    variables = jax.jit(model.init)(jax.random.key(0), inputs)

    def gradient(form):
        return jax.jit(jax.grad(lambda v: (form.apply(v, inputs) ** 2).sum()))(variables)

    plain, again = gradient(model), gradient(model.clone(remat=True))
    chex.assert_trees_all_close(again, plain, rtol=1e-4, atol=1e-5)


def test_what_flows_inside_is_seen():
    model, images = MODELS["vit"]
    variables = jax.jit(model.init)(jax.random.key(0), images)
    site = "block_1/mlp/act_0"
    data = lcjax.CalibrationData([images], holdout=0.0)
    plain, again = (
        lcjax.calibrate(model.clone(remat=remat).apply, variables, data, site)
        for remat in (False, True)
    )
    chex.assert_trees_all_close(again.train, plain.train, rtol=1e-5)


def test_a_model_without_blocks_is_an_error():
    with pytest.raises(ConfigError, match="--remat is set, but MLP has no blocks"):
        prepare(configured(remat=True))
    assert prepare(configured("digits-mixer", remat=True)).task.classifier.module.remat
