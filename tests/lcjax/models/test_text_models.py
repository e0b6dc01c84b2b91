"""BERT and GPT2: published sizes, padding, token types, the key-value cache, collapse."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax.models import BERT, GPT2
from lcjax.surgery.collapse import abstract_collapse, collapse
from lcjax.tree.paths import is_slope

pytestmark = pytest.mark.promotes

ONE = jax.ShapeDtypeStruct((1, 1), jnp.int32)
SMALL = dict(depth=1, width=12, num_heads=3, vocab_size=30, max_length=8)
TINY_BERT = BERT(3, mlp_hidden=24, **SMALL)
TINY_GPT2 = GPT2(**SMALL)
TOKENS = np.random.default_rng(0).integers(0, 30, (3, 6))
# The first is whole, the second padded behind, the third padded in front.
MASK = np.array([[1] * 6, [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]], bool)


def _count(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sum(leaf.size for keys, leaf in leaves if not is_slope(keys))


@functools.cache
def _variables(model):
    """Random leaves of the right shapes, slopes zero; cheaper than compiling `init`."""
    rng = np.random.default_rng(1)

    def leaf(keys, shape):
        scale = 0.0 if is_slope(keys) else 0.5
        return jnp.asarray(scale * rng.standard_normal(shape.shape), shape.dtype)

    with jax.ensure_compile_time_eval():  # a test may ask for it first while it traces
        return jax.tree_util.tree_map_with_path(leaf, _abstract(model))


@functools.cache
def _abstract(model):
    return jax.eval_shape(model.init, jax.random.key(0), ONE)


@functools.cache
def _run(model, **how):
    return jax.jit(partial(model.apply, **how))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (BERT.from_preset("base", num_classes=None), 109_482_240),
        (BERT.from_preset("base", num_classes=2), 109_483_778),
        (BERT.from_preset("base", num_classes=None, vocab_size=28_996), 108_310_272),
        (BERT.from_preset("large", num_classes=None), 335_141_888),
        (BERT.from_preset("MiniLM-L6", num_classes=None), 22_713_216),
        (BERT.from_preset("MiniLM-L12", num_classes=None), 33_360_000),
        (GPT2.from_preset("124M"), 124_439_808),
        (GPT2.from_preset("medium"), 354_823_168),
        (GPT2.from_preset("large"), 774_030_080),
        (GPT2.from_preset("XL"), 1_557_611_200),
    ],
)
def test_preset_parameter_count(model, parameters):
    assert _count(_abstract(model)) == parameters


@pytest.mark.parametrize(
    ("model", "collapsed", "parameters"),
    [
        (BERT.from_preset("base", num_classes=2), 4, 92_956_418),
        (BERT.from_preset("base", num_classes=2), 12, 109_483_778 - 12 * 4_131_840),
        (BERT.from_preset("MiniLM-L6", num_classes=None), 3, 22_713_216 - 3 * 1_033_728),
        (GPT2.from_preset("124M"), 1, 124_439_808 - 4_131_840),
        (GPT2.from_preset("medium"), 2, 354_823_168 - 2 * 7_344_128),
    ],
)
def test_compact_parameter_count(model, collapsed, parameters):
    deep = _abstract(model)
    last = [f"block_{model.depth - 1 - i}/mlp/act_0" for i in range(collapsed)]
    compact, report = abstract_collapse(deep, sites=last)
    assert len(report.collapsed) == collapsed
    assert _count(compact) == parameters


@pytest.mark.parametrize(("model", "known"), [(BERT, "base, large, Mini"), (GPT2, "124M, medium,")])
def test_preset_rejects_unknown_size(model, known):
    classes = {"num_classes": 2} if model is BERT else {}
    with pytest.raises(ValueError, match=f"got preset 'huge', expected one of {known}"):
        model.from_preset("huge", **classes)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["pooler", None])
@pytest.mark.usefixtures("strict_promotion")
def test_bert_ignores_padding(pool):
    model = BERT(3, mlp_hidden=24, pool=pool, **SMALL)
    variables = _variables(model)
    other = np.where(MASK, TOKENS, (TOKENS + 7) % 30)
    first, second = (_run(model)(variables, tokens, MASK[:2]) for tokens in (TOKENS[:2], other[:2]))
    assert first.dtype == jnp.float32
    if pool is None:
        assert first.shape == (2, 6, 3)
        first, second = first[MASK[:2]], second[MASK[:2]]
    np.testing.assert_array_equal(first, second)
    blind = _run(model)(variables, other[:2], np.ones_like(MASK[:2]))
    seen = blind[MASK[:2]] if pool is None else blind
    assert np.abs(seen - first).max() > 1e-3


@pytest.mark.slow
def test_bert_reads_token_types_and_positions():
    run, variables = _run(TINY_BERT), _variables(TINY_BERT)
    plain = run(variables, TOKENS)
    np.testing.assert_array_equal(plain, run(variables, TOKENS, None, np.zeros_like(TOKENS)))
    assert np.abs(run(variables, TOKENS, None, np.ones_like(TOKENS)) - plain).max() > 1e-3
    assert np.abs(run(variables, TOKENS[:, ::-1].copy()) - plain).max() > 1e-3


def test_bert_pool_first_token_or_masked_mean():
    whole = BERT(None, mlp_hidden=24, pool=None, **SMALL)
    variables = _variables(whole)
    tokens = np.asarray(_run(whole)(variables, TOKENS, MASK))
    mean = _run(whole.clone(pool="mean"))(variables, TOKENS, MASK)
    first = _run(whole.clone(pool="token"))(variables, TOKENS, MASK)
    np.testing.assert_allclose(first, tokens[:, 0], rtol=1e-5, atol=1e-5)
    by_hand = [row[real].mean(0) for row, real in zip(tokens, MASK, strict=True)]
    np.testing.assert_allclose(mean, by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [TINY_BERT, TINY_GPT2], ids=["bert", "gpt2"])
def test_unknown_token_gives_nan(model):
    tokens = TOKENS.copy()
    tokens[1, 2] = 30
    out = np.asarray(_run(model)(_variables(model), tokens)).reshape(3, -1)
    assert np.isnan(out).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("model", [TINY_BERT, TINY_GPT2], ids=["bert", "gpt2"])
@pytest.mark.parametrize("shape", [(2, 9), (4,), (1, 2, 3)])
def test_model_rejects_long_texts_and_other_axes(model, shape):
    with pytest.raises(ValueError, match=r"truncate them|expected \(batch, tokens\)"):
        model.init(jax.random.key(0), jnp.zeros(shape, int))


def test_bert_rejects_unknown_pool():
    with pytest.raises(ValueError, match="BERT: got pool='max', expected one of"):
        jax.eval_shape(TINY_BERT.clone(pool="max").init, jax.random.key(0), ONE)


def test_attention_rejects_number_of_heads():
    with pytest.raises(ValueError, match="block_0/attention: got 5 heads for tokens of width 12"):
        jax.eval_shape(TINY_BERT.clone(num_heads=5).init, jax.random.key(0), ONE)


@pytest.mark.parametrize("model", [TINY_BERT, TINY_GPT2], ids=["bert", "gpt2"])
def test_compact_equals_deep_at_slope_one(model):
    straight = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: jnp.ones_like(leaf) if is_slope(keys) else leaf, _variables(model)
    )
    compact, report = collapse(straight)
    assert list(report.collapsed) == ["block_0/mlp/act_0"]
    bent, deep, shallow = (
        np.asarray(_run(model)(tree, TOKENS, MASK))
        for tree in (_variables(model), straight, compact)
    )
    np.testing.assert_allclose(shallow, deep, rtol=1e-3, atol=1e-4)
    assert np.abs(deep - bent).max() > 1e-2, "slopes do not matter: nothing is proven"


def test_bert_dropout_is_outside_mlps():
    model = TINY_BERT.clone(dropout=0.5)

    def train(key):
        out, held = model.apply(
            _variables(TINY_BERT),
            TOKENS,
            deterministic=False,
            rngs={"dropout": key},
            capture_intermediates=lambda module, _: module.name in ("act_0", "drop", "dropout_0"),
        )
        return out, held

    shapes = jax.eval_shape(train, jax.random.key(0))[1]["intermediates"]
    assert set(shapes) == {"drop", "block_0"}
    assert set(shapes["block_0"]) == {"drop", "mlp"}
    assert set(shapes["block_0"]["mlp"]) == {"act_0"}
    run = jax.jit(lambda key: train(key)[0])
    first, second = run(jax.random.key(0)), run(jax.random.key(1))
    assert np.abs(first - second).max() > 1e-3


@functools.cache
def _whole(masked=True):
    return np.asarray(_run(TINY_GPT2)(_variables(TINY_GPT2), TOKENS, MASK if masked else None))


@pytest.mark.usefixtures("strict_promotion")
def test_gpt2_is_causal():
    changed = TOKENS.copy()
    changed[:, 4:] = (changed[:, 4:] + 7) % 30
    before, after = _whole(masked=False), _run(TINY_GPT2)(_variables(TINY_GPT2), changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-2


def test_gpt2_ignores_padding():
    real = MASK[1:]
    alone = _run(TINY_GPT2)(_variables(TINY_GPT2), TOKENS[1:][real].reshape(2, 4))
    padded = _whole()[1:][real].reshape(2, 4, -1)
    np.testing.assert_allclose(padded, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cuts", [(4, 1, 1), (1,) * 6], ids=str)
@pytest.mark.usefixtures("strict_promotion")
def test_cached_logits_equal_uncached(cuts):
    step, variables = _run(TINY_GPT2, mutable="cache"), _variables(TINY_GPT2)
    held, logits, start = {"cache": TINY_GPT2.init_cache(3, 7)}, [], 0
    for cut in cuts:
        part = slice(start, start + cut)
        some, held = step(variables | held, TOKENS[:, part], MASK[:, part])
        logits.append(some)
        start += cut
    logits = np.concatenate(logits, axis=1)
    np.testing.assert_allclose(logits[MASK], _whole()[MASK], rtol=1e-4, atol=1e-4)
    shapes = partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
    assert shapes(held["cache"]) == shapes(TINY_GPT2.init_cache(3, 7))


def test_prefill_last_only_logits():
    step, variables = _run(TINY_GPT2, mutable="cache", last_only=True), _variables(TINY_GPT2)
    logits, _ = step(variables | {"cache": TINY_GPT2.init_cache(3)}, TOKENS, MASK)
    np.testing.assert_allclose(logits, _whole()[[0, 1, 2], [5, 3, 5]], rtol=1e-4, atol=1e-4)


def test_cache_continues_text_after_right_padding():
    """The second text, with padding inside its cache, and the same with none."""
    step, variables = _run(TINY_GPT2, mutable="cache", last_only=True), _variables(TINY_GPT2)
    following = np.full((3, 1), 9)
    _, held = step(variables | {"cache": TINY_GPT2.init_cache(3)}, TOKENS, MASK)
    logits, _ = step(variables | held, following)
    alone = np.concatenate([TOKENS[1:2, :4], following[:1]], axis=1)
    whole = _run(TINY_GPT2)(variables, alone)[0, -1]
    np.testing.assert_allclose(logits[1], whole, rtol=1e-4, atol=1e-4)


def test_cache_overflow_gives_nan():
    step, variables = _run(TINY_GPT2, mutable="cache"), _variables(TINY_GPT2)
    one, four = (np.ones((3, n), bool) for n in (1, 4))
    _, held = step(variables | {"cache": TINY_GPT2.init_cache(3, 7)}, TOKENS[:, :4], four)
    for _ in range(3):
        logits, held = step(variables | held, TOKENS[:, :1], one)
        assert not np.isnan(logits).any()
    logits, _ = step(variables | held, TOKENS[:, :1], one)
    assert np.isnan(logits).all()
    with pytest.raises(ValueError, match="at most 5 tokens; truncate the texts, or use a longer"):
        step(variables | {"cache": TINY_GPT2.init_cache(3, 5)}, TOKENS)


def test_cache_with_compact_model():
    straight = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: jnp.ones_like(leaf) if is_slope(keys) else leaf, _variables(TINY_GPT2)
    )
    compact, _ = collapse(straight, sites=["block_0/mlp/act_0"])
    step = _run(TINY_GPT2, mutable="cache", last_only=True)
    _, held = step(compact | {"cache": TINY_GPT2.init_cache(3)}, TOKENS[:, :5])
    logits, _ = step(compact | held, TOKENS[:, 5:])
    whole = _run(TINY_GPT2)(straight, TOKENS)[:, -1]
    np.testing.assert_allclose(logits, whole, rtol=1e-3, atol=1e-3)


def test_bfloat16_cache_keeps_float32_params():
    half = TINY_GPT2.clone(dtype=jnp.bfloat16)
    cache = half.init_cache(3)
    assert cache["block_0"]["attention"]["key"].dtype == jnp.bfloat16
    logits, held = jax.eval_shape(
        partial(half.apply, mutable="cache"), _variables(TINY_GPT2) | {"cache": cache}, TOKENS
    )
    assert logits.dtype == jnp.float32
    assert held["cache"]["block_0"]["attention"]["key"].dtype == jnp.bfloat16
