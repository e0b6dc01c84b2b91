"""Text token by token: what is written is what the model without a cache would write."""

import sys
import warnings
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.models import GPT2, Decoder, DecoderConfig
from tests.helpers.tiny_text import WORDS
from train import language
from train.data.text.vocabulary import Characters
from train.generation.generate import generate
from train.generation.sampler import Sampler, sample_token
from train.models.base import ACTIVATIONS
from train.models.serialization import module_as_json
from train.validation import ConfigError

pytestmark = pytest.mark.slow

VOCABULARY = Characters.of([" ".join(WORDS)])
SIZES = dict(depth=1, width=16, num_heads=2, vocab_size=VOCABULARY.size, max_length=12)
PLAIN = GPT2(**SIZES, activation=ACTIVATIONS["gelu"])
GATED = GPT2(**SIZES, mlp_hidden=24, glu=True, activation=nn.silu)
LLAMA = Decoder(
    DecoderConfig(
        vocab_size=VOCABULARY.size,
        width=16,
        depth=2,
        num_heads=4,
        num_kv_heads=2,
        head_width=4,
        mlp_hidden=24,
        max_length=12,
        windows=(3, None),
        tied_head=True,
    )
)
MODELS = {"deep": PLAIN, "gated": GATED, "llama": LLAMA}
KEY = jax.random.key(0)
COLD = 1e-6
SLOW = ("deep", "gated", "deep compact", "llama")
FORMS = [
    "gated compact",
    "llama compact",
    *(pytest.param(form, marks=pytest.mark.slow) for form in SLOW),
]


@cache
def variables(model):
    tree = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))
    factor = 50 if model is LLAMA else 6
    return jax.tree.map(lambda leaf: factor * leaf if leaf.ndim > 1 else leaf, jax.device_get(tree))


@cache
def made(form):
    """Returns the model and the variables of a form."""
    model = MODELS[form.split()[0]]
    tree = variables(model)
    if "compact" in form:
        tree, _ = lcjax.collapse(tree, lcjax.find_sites(tree).paths, lcjax.Exact(max_gap=2))
    return model, tree


def uncached(model, tree, prompt, count):
    """Returns the likeliest tokens one after another, each from all that the model may read."""
    apply, text, first = jax.jit(model.apply), prompt.tolist(), 0
    for _ in range(count):
        if len(text) - first > 12:
            first = len(text) - 6
        window = text[first:]
        padded = np.pad(np.array([window]), ((0, 0), (0, 12 - len(window))))
        text.append(int(apply(tree, padded)[0, len(window) - 1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("form", FORMS)
def test_the_likeliest_text_is_that_without_a_cache(form):
    """Beyond the context as well, where the last half is read anew."""
    model, tree = made(form)
    prompt = VOCABULARY.encode("a king")
    sampler = Sampler(model, tree, length=12, temperature=COLD)
    written = sampler.sample(prompt, 25, KEY)
    assert written.dtype == np.int32 and len(set(written.tolist())) > 2
    assert written.tolist() == uncached(model, tree, prompt, 25)
    assert sampler.sample(prompt, 1, KEY).tolist() == written[:1].tolist()


@pytest.mark.slow
def test_one_program_serves_every_token():
    model, tree = made("deep")
    sampler = Sampler(model, tree, length=12)
    sampler.compile(4, 9)
    assert set(sampler._programs) == {1, 4}
    sampler.compile(4, 10)
    assert set(sampler._programs) == {1, 4, 6}
    programs = dict(sampler._programs)
    sampler.sample(VOCABULARY.encode("king"), 40, KEY)
    assert sampler._programs == programs


def test_padding_of_the_vocabulary_is_never_drawn():
    sampler = Sampler(*made("llama"), length=12, temperature=1e4, tokens=3)
    assert set(sampler.sample(VOCABULARY.encode("king"), 40, KEY).tolist()) == {0, 1, 2}


def test_draws_follow_temperature_and_top_k():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))

    def parts(**asked):
        keys = jax.random.split(KEY, 4000)
        drawn = jax.vmap(lambda key: sample_token(logits[None], key, **asked)[0])(keys)
        return np.bincount(drawn, minlength=4) / 4000

    np.testing.assert_allclose(
        parts(temperature=1.0, top_k=None), [0.5, 0.3, 0.15, 0.05], atol=0.03
    )
    squares = np.array([0.25, 0.09, 0.0225, 0.0025])
    np.testing.assert_allclose(parts(temperature=0.5, top_k=9), squares / squares.sum(), atol=0.03)
    np.testing.assert_allclose(parts(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
    assert parts(temperature=5.0, top_k=1).tolist() == [1, 0, 0, 0]


# The command.


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = tmp_path_factory.mktemp("kept")
    for form in ("deep", "gated compact", "llama compact"):
        model, tree = made(form)
        data = {"tokens": VOCABULARY.as_json(), "module": module_as_json(model)}
        metadata = {"kind": "language", "model": {}, "data": data}
        lcjax.save(root / form, tree, metadata=metadata)
    return root


def main(monkeypatch, *arguments):
    """Runs the command line in this process."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which it replaces
    monkeypatch.setattr(sys, "argv", ["train.language", "generate", *map(str, arguments)])
    language.main()


@pytest.mark.parametrize("form", ["gated compact", "llama compact", "deep"])
def test_the_command_writes_the_models_text(form, kept, monkeypatch, capsys):
    asked = (kept / form, "--prompt", "a king", "--length", "20", "--seed", "3", "--top-k", "5")
    main(monkeypatch, *asked)
    said = capsys.readouterr().out
    text, _, speed = said.rpartition("\n\n")
    sampler = Sampler(*made(form), length=12, top_k=5)
    want = sampler.sample(VOCABULARY.encode("a king"), 20, jax.random.key(3))
    assert text == "a king" + VOCABULARY.decode(want)
    assert speed.startswith("20 tokens, ") and speed.endswith(" a second\n")
    assert int(speed.split()[2].replace(",", "")) > 0
    other = generate(kept / form, prompt="a king", length=20, seed=4, top_k=5)
    assert other.text != text and other.tokens == 20


BAD = [
    ({"temperature": 0.0}, "--temperature is 0.0; expected a number above 0"),
    ({"temperature": -1.0}, "--temperature is -1.0; expected a number above 0"),
    ({"top_k": 0}, "--top-k is 0; expected at least 1"),
    ({"length": 0}, "--length is 0; expected at least 1"),
    ({"seed": -1}, "--seed is -1; expected in"),
    ({"prompt": ""}, "--prompt has 0 tokens; expected 1 to 12, the model's context"),
    ({"prompt": "a king and his"}, "--prompt has 14 tokens; expected 1 to 12, the model's context"),
    ({"prompt": "KING"}, "the text has 'GIKN', which the vocabulary lacks"),
]


@pytest.mark.parametrize(("asked", "message"), BAD)
def test_what_cannot_be_written_is_an_error(asked, message, kept):
    with pytest.raises(ValueError, match=message):
        generate(kept / "deep", **asked)


def test_other_checkpoints_are_an_error(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="error: .*nowhere: no such checkpoint"):
        main(monkeypatch, tmp_path / "nowhere")
    data = {"num_classes": 2, "mean": [0.5], "std": [0.5]}
    model = {"kind": "mlp", "hidden": [], "activation": "relu", "dropout": 0.0, "norm": None}
    metadata = {"kind": "image", "model": model | {"dtype": "float32"}, "data": data}
    lcjax.save(tmp_path / "images", {"kernel": np.ones(2)}, metadata=metadata)
    with pytest.raises(ConfigError, match="images classifies images; expected a checkpoint of"):
        generate(tmp_path / "images")
