"""The image models: sizes as published, order of the sites, forward passes, collapse."""

import functools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax.models import MLP, VGG, MLPMixer, ViT
from lcjax.models.attention import Attention
from lcjax.models.transformer import TransformerBlock
from lcjax.models.vgg import adaptive_avg_pool
from lcjax.surgery.collapse import abstract_collapse, collapse
from lcjax.tree.paths import is_slope, natural_sort_key, site_of

pytestmark = pytest.mark.promotes

IMAGENET = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
SMALL = {
    "mlp": MLP((24, 16, 5)),
    "mixer": MLPMixer(5, patch_size=4, depth=1, width=12, token_hidden=8, channel_hidden=24),
    "vit": ViT(5, patch_size=4, depth=1, width=12, num_heads=3, mlp_hidden=24),
    "vit_mean": ViT(5, patch_size=4, depth=1, width=8, num_heads=2, mlp_hidden=16, pool="mean"),
    "vgg": VGG(5, stages=((4,), (6, 6)), grid=2, hidden=(16,)),
}


def _abstract(model):
    return jax.eval_shape(model.init, jax.random.key(0), IMAGENET)


def _count(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
    return sum(leaf.size for keys, leaf in leaves if not is_slope(keys))


def _sites(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sorted((site_of(keys) for keys, _ in leaves if is_slope(keys)), key=natural_sort_key)


@functools.cache
def _images(batch=2):
    return np.random.default_rng(0).standard_normal((batch, 8, 8, 3), np.float32)


@functools.cache
def _variables(name):
    """Random leaves of the right shapes, slopes zero; cheaper than compiling `init`."""
    return _random(SMALL[name])


def _random(model):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), _images())

    def leaf(keys, shape):
        scale = 0.0 if is_slope(keys) else 0.3
        return jnp.asarray(scale * rng.standard_normal(shape.shape), shape.dtype)

    with jax.ensure_compile_time_eval():  # a test may ask for it first while it traces
        return jax.tree_util.tree_map_with_path(leaf, shapes)


PUBLISHED = [
    (MLPMixer, "S/32", 19_104_624),
    (MLPMixer, "S/16", 18_528_264),
    (MLPMixer, "B/32", 60_293_428),
    (MLPMixer, "B/16", 59_880_472),
    (MLPMixer, "L/32", 206_939_264),
    (MLPMixer, "L/16", 208_196_168),
    (ViT, "Ti/16", 5_717_416),
    (ViT, "S/32", 22_878_952),
    (ViT, "S/16", 22_050_664),
    (ViT, "B/32", 88_224_232),
    (ViT, "B/16", 86_567_656),
    (ViT, "L/32", 306_535_400),
    (ViT, "L/16", 304_326_632),
    (VGG, "11", 132_863_336),
    (VGG, "13", 133_047_848),
    (VGG, "16", 138_357_544),
    (VGG, "19", 143_667_240),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "preset", "parameters"), PUBLISHED, ids=[f"{m.__name__}-{p}" for m, p, _ in PUBLISHED]
)
def test_preset_parameter_count(model, preset, parameters):
    assert _count(_abstract(model.from_preset(preset, num_classes=1000))) == parameters


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("11", 132_868_840), ("13", 133_053_736), ("16", 138_365_992), ("19", 143_678_248)],
)
def test_vgg_batch_norm_parameter_count(preset, parameters):
    model = VGG.from_preset(preset, num_classes=1000, norm="batch")
    assert _count(_abstract(model)) == parameters


def test_small_vgg_parameter_count_deep_and_compact():
    model = VGG.from_preset("16-small", num_classes=10, norm="batch", conv_bias=False)
    small = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    deep = jax.eval_shape(model.init, jax.random.key(0), small)
    compact, _ = abstract_collapse(deep, sites=_sites(deep))
    # Published with a slope for each of 13 convolutions, and one in the head.
    assert (_count(deep) + 14, _count(compact) + 13) == (16_869_336, 14_724_055)


SAVED = [
    (VGG, "16", ["mlp/act_1"], 16_781_312),
    (VGG, "16", ["mlp/act_0", "mlp/act_1"], 98_553_856),
    (MLPMixer, "B/16", ["block_11/mlp_1_tokens/act_0"], 112_496),
    (MLPMixer, "B/16", ["block_11/mlp_1_tokens/act_0", "block_11/mlp_2_channels/act_0"], 4_244_336),
    (ViT, "B/16", ["block_11/mlp/act_0"], 4_131_840),
    (ViT, "B/16", ["block_3/mlp/act_0", "block_10/mlp/act_0"], 2 * 4_131_840),
    (ViT, "Ti/16", ["block_0/mlp/act_0"], 258_816),
]


@pytest.mark.parametrize(("model", "preset", "sites", "saved"), SAVED)
def test_fused_mlp_saved_parameters(model, preset, sites, saved):
    deep = _abstract(model.from_preset(preset, num_classes=1000))
    compact, report = abstract_collapse(deep, sites=sites)
    assert set(report.collapsed) == set(sites)
    assert _count(deep) - _count(compact) == saved


def test_mixer_b16_compact_parameter_count():
    deep = _abstract(MLPMixer.from_preset("B/16", num_classes=1000))
    compact, _ = abstract_collapse(deep, sites=_sites(deep)[-2:])
    assert round(_count(deep) / 1e6, 2) == 59.88
    assert round(_count(compact) / 1e6, 2) == 55.64


def test_preset_with_patch_size_and_fields():
    model = MLPMixer.from_preset("S/4", num_classes=10, depth=2, dropout=0.1)
    assert (model.patch_size, model.width, model.depth, model.dropout) == (4, 512, 2, 0.1)


@pytest.mark.parametrize("model", [MLPMixer, ViT])
@pytest.mark.parametrize("preset", ["XL/16", "B", "B/0", "b/16", ""])
def test_preset_rejects_unknown_size(model, preset):
    message = f"{model.__name__}: got preset '{preset}', expected one of .*S/16, B/16, L/16"
    with pytest.raises(ValueError, match=message):
        model.from_preset(preset, num_classes=10)


@functools.cache
def _logits(name):
    return jax.jit(SMALL[name].apply)(_variables(name), _images())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("strict_promotion")
def test_logits_are_float32(name):
    logits = _logits(name)
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32
    assert np.abs(np.diff(logits, axis=0)).max() > 1e-2


def _check_output_is_bfloat16(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if context.method_name == "__call__" and context.module.path:
        assert out.dtype == jnp.bfloat16, context.module.path
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_keeps_float32_params(name):
    half, variables = SMALL[name].clone(dtype=jnp.bfloat16), _variables(name)
    with nn.intercept_methods(_check_output_is_bfloat16):
        jax.eval_shape(half.apply, variables, _images())
    logits = jax.jit(half.apply)(variables, _images())
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, _logits(name), atol=0.1)
    shapes = jax.eval_shape(half.init, jax.random.key(0), _images())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


def _order_of_use(model, variables, images):
    """The sites in the order in which an eager forward pass reaches them."""
    reached = []

    def spy(call, args, kwargs, context):
        path = context.module.path
        if path and path[-1].startswith("act_") and context.method_name == "__call__":
            reached.append("/".join(path))
        return call(*args, **kwargs)

    with nn.intercept_methods(spy):
        jax.eval_shape(model.apply, variables, images)
    return reached


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (MLP((8,) * 12), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)),
        (MLPMixer.from_preset("B/16", num_classes=10), IMAGENET),
        (ViT.from_preset("Ti/16", num_classes=10), IMAGENET),
        (VGG(5, stages=((4,),), hidden=(8,) * 12), IMAGENET),
    ],
    ids=["mlp", "mixer", "vit", "vgg"],
)
def test_natural_order_is_forward_order(model, images):
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    reached = _order_of_use(model, variables, images)
    assert len(reached) > 10
    assert _sites(variables) == reached


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_compact_equals_deep_at_slope_one(name):
    model = SMALL[name]
    straight = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: jnp.ones_like(leaf) if is_slope(keys) else leaf, _variables(name)
    )
    compact, report = collapse(straight)
    assert list(report.collapsed) == _sites(straight)
    assert _sites(compact) == []
    deep, shallow = (jax.jit(model.apply)(tree, _images()) for tree in (straight, compact))
    np.testing.assert_allclose(shallow, deep, rtol=1e-4, atol=1e-5)
    assert np.abs(deep - _logits(name)).max() > 1e-3, "slopes do not matter: nothing is proven"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "mixer", "vit", "vgg"])
def test_dropout_is_off_when_deterministic(name):
    model = SMALL[name].clone(dropout=0.5)
    train = jax.jit(
        lambda key: model.apply(
            _variables(name), _images(), deterministic=False, rngs={"dropout": key}
        )
    )
    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert np.abs(first - second).max() > 1e-3
    still = jax.jit(model.apply)(_variables(name), _images())
    np.testing.assert_array_equal(still, _logits(name))


@pytest.mark.parametrize(
    "model",
    [
        MLP((16, 16, 5), norm="batch"),
        VGG(5, stages=((4,), (6,)), grid=1, hidden=(8,), norm="batch", classifier_norm="batch"),
    ],
    ids=["mlp", "vgg"],
)
def test_batch_norm_updates_in_training_only(model):
    variables = _random(model)
    train = jax.jit(partial(model.apply, deterministic=False, mutable=["batch_stats"]))
    _, moved = train(variables, _images())
    before, after = jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(moved)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))


def test_vit_pool_number_of_tokens():
    token = _variables("vit")["params"]
    mean = _variables("vit_mean")["params"]
    assert token["positions"].shape == (1, 5, 12)
    assert token["class_token"].shape == (1, 1, 12)
    assert mean["positions"].shape == (1, 4, 8)
    assert "class_token" not in mean


def test_vit_rejects_unknown_pool():
    with pytest.raises(ValueError, match="ViT: got pool='max', expected 'token' or 'mean'"):
        SMALL["vit"].clone(pool="max").init(jax.random.key(0), _images())


@pytest.mark.parametrize("name", ["mixer", "vit"])
def test_patch_embedding_rejects_image_size(name):
    images = jnp.zeros((1, 8, 10, 3))
    with pytest.raises(ValueError, match="got 8x10 pixels, expected multiples of patch_size=4"):
        SMALL[name].init(jax.random.key(0), images)


@pytest.mark.parametrize("name", ["mixer", "vit"])
def test_patch_embedding_rejects_images_without_channels(name):
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8\), expected \(batch, height, width, ch"):
        SMALL[name].init(jax.random.key(0), jnp.zeros((2, 8, 8)))


def test_attention_mask_hides_tokens():
    block = TransformerBlock(num_heads=2, mlp_hidden=16, activation=nn.gelu)
    tokens = np.random.default_rng(1).standard_normal((1, 4, 8), np.float32)
    variables = jax.jit(block.init)(jax.random.key(0), tokens)
    changed = tokens * np.array([1, 1, 1, -1], np.float32)[:, None]
    apply = jax.jit(block.apply)
    for mask, blind in ((np.tri(4, dtype=bool), True), (np.ones((4, 4), bool), False)):
        before, after = (apply(variables, x, mask)[:, :-1] for x in (tokens, changed))
        assert np.array_equal(before, after) is blind


@pytest.mark.parametrize("edge", [1, 3, 5, 7])
@pytest.mark.usefixtures("strict_promotion")
def test_adaptive_avg_pool_covers_image(edge):
    ramp = np.broadcast_to(np.arange(5.0, dtype=np.float32)[:, None, None], (1, 5, 4, 2))
    means = np.asarray(adaptive_avg_pool(jnp.asarray(ramp), edge))
    assert means.shape == (1, edge, edge, 2)
    by_hand = {
        1: [2.0],
        3: [0.5, 2.0, 3.5],  # rows 0-1, 1-3 and 3-4
        5: [0.0, 1.0, 2.0, 3.0, 4.0],
        7: [0.0, 0.5, 1.5, 2.0, 2.5, 3.5, 4.0],  # rows 0, 0-1, 1-2, 2, 2-3, 3-4 and 4
    }
    np.testing.assert_allclose(means[0, :, 0, 0], by_hand[edge], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 3, 8, 3)])
def test_vgg_rejects_small_images(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, height, .* at least 4x4 pixels"):
        SMALL["vgg"].init(jax.random.key(0), jnp.zeros(shape))


def test_vgg_rejects_unknown_norm():
    with pytest.raises(ValueError, match="VGG: got norm='layer', expected None or 'batch'"):
        SMALL["vgg"].clone(norm="layer").init(jax.random.key(0), _images())


def test_vgg_rejects_unknown_preset():
    with pytest.raises(ValueError, match="VGG: got preset 'VGG16', expected one of 11, 13, 16, 19"):
        VGG.from_preset("VGG16", num_classes=10)


@pytest.mark.parametrize("name", ["mixer", "vit"])
def test_model_without_head_returns_features(name):
    bare = SMALL[name].clone(num_classes=None)
    variables = _variables(name)
    trunk = {k: v for k, v in variables["params"].items() if k != "head"}
    shapes = jax.eval_shape(bare.init, jax.random.key(0), _images())["params"]
    assert jax.tree.structure(shapes) == jax.tree.structure(trunk)
    features = jax.jit(bare.apply)({"params": trunk}, _images())
    head = variables["params"]["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], _logits(name), atol=1e-5)


@pytest.mark.usefixtures("strict_promotion")
def test_attention_equals_flax():
    x = np.random.default_rng(2).standard_normal((2, 5, 12)).astype(np.float32)
    theirs = nn.MultiHeadDotProductAttention(3)
    variables = jax.jit(theirs.init)(jax.random.key(0), x)
    mask = np.tri(5, dtype=bool)[None, None]
    ours = jax.jit(Attention(3).apply)(variables, x, mask)
    np.testing.assert_allclose(ours, theirs.apply(variables, x, mask=mask), rtol=1e-5, atol=1e-5)
