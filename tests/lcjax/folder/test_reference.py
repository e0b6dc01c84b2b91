"""Compact folders in PyTorch, by transformers alone, give what lcjax gives: float32, 1e-4."""

import json
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.folder import FolderOptions, collapse_model, load_model, save_model
from tests.lcjax.folder.folders import DEPTH, HIDDEN, VOCABULARY, WIDTH, texts, write_tokenizer

SIZES = dict(
    hidden_size=WIDTH,
    intermediate_size=HIDDEN,
    num_hidden_layers=DEPTH,
    num_attention_heads=4,
    vocab_size=VOCABULARY,
    max_position_embeddings=64,
)
DECODER = SIZES | dict(num_key_value_heads=2, head_dim=4)
LOCAL = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES = {
    "llama": ("LlamaForCausalLM", DECODER | dict(tie_word_embeddings=False)),
    "llama_with_biases": ("LlamaForCausalLM", DECODER | dict(mlp_bias=True)),
    "mistral": ("MistralForCausalLM", DECODER | dict(sliding_window=6)),
    "qwen2": ("Qwen2ForCausalLM", SIZES | dict(num_key_value_heads=2)),
    "qwen3": ("Qwen3ForCausalLM", DECODER | dict(tie_word_embeddings=True)),
    "gemma2": ("Gemma2ForCausalLM", DECODER | dict(sliding_window=6, layer_types=LOCAL)),
    "gemma3": ("Gemma3ForCausalLM", DECODER | dict(sliding_window=6, layer_types=LOCAL)),
    "bert": ("BertModel", SIZES),
    "roberta": ("RobertaModel", SIZES | dict(pad_token_id=0)),
    "distilbert": (
        "DistilBertModel",
        dict(
            dim=WIDTH,
            hidden_dim=HIDDEN,
            n_layers=DEPTH,
            n_heads=4,
            vocab_size=VOCABULARY,
            max_position_embeddings=64,
        ),
    ),
    "modernbert": (
        "ModernBertModel",
        SIZES
        | dict(
            local_attention=8,
            global_attn_every_n_layers=2,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
            cls_token_id=None,
            sep_token_id=None,
        ),
    ),
}
CASES = [(name, forms) for name in FAMILIES for forms in ("units", "mixed")]


def _made(name, folder):
    """A folder of two shards or more by transformers' own save_pretrained."""
    torch = pytest.importorskip("torch", reason="extra reference")
    transformers = pytest.importorskip("transformers", reason="extra reference")
    kind, sizes = FAMILIES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of PyTorch, in ModernBERT's module
        cls = getattr(transformers, kind)
    model = cls(cls.config_class(**sizes)).float()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.mul_(10 if value.ndim == 2 and "embed" not in key else 1)
    model.save_pretrained(folder, max_shard_size="20KB", safe_serialization=True)
    write_tokenizer(folder)
    assert len(list(folder.glob("model-*.safetensors"))) >= 2
    return folder


def run_in_pytorch(folder, inputs, work, *flags):
    """What transformers gives for a folder, in a process without lcjax and JAX."""
    script = Path(__file__).with_name("pytorch.py")
    np.savez(work / "inputs.npz", **inputs)
    command = [sys.executable, script, folder, work / "inputs.npz", work / "out.npz", *flags]
    environment = os.environ | {"HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=work)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "newly initialized" not in done.stderr and "not used" not in done.stderr
    return np.load(work / "out.npz")


def _greedy(model, variables, start, count):
    """Tokens by recomputing the whole text for each."""
    length = len(start) + count
    tokens = np.zeros((1, length), np.int32)
    tokens[0, : len(start)] = start
    run = jax.jit(partial(model.apply, last_only=True))
    for i in range(len(start), length):
        mask = np.arange(length)[None] < i
        tokens[0, i] = int(run(variables, jnp.asarray(tokens), jnp.asarray(mask)).argmax())
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize("name, forms", CASES)
def test_pytorch_gives_the_same(name, forms, tmp_path):
    source, target = _made(name, tmp_path / "deep"), tmp_path / "compact"
    options = FolderOptions(forms=forms, multiple_of=8)
    report = collapse_model(source, target, texts(), budget=lcjax.Params(0.75), options=options)
    assert report["after"]["parameters"] <= 0.75 * report["before"]["parameters"]
    config, before = (json.loads((f / "config.json").read_text()) for f in (target, source))
    if forms == "units":
        changed = {key for key in config if config[key] != before.get(key)}
        field = "hidden_dim" if name == "distilbert" else "intermediate_size"
        assert changed == {field} and config.keys() == before.keys()
    _check_in_pytorch(target, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name, forms", [("qwen3", "units"), ("llama", "mixed"), ("bert", "mixed")])
def test_pytorch_gives_the_same_after_training(name, forms, tmp_path):
    """Of a folder with other weights in the place of those that the collapse left."""
    options = FolderOptions(forms=forms, multiple_of=8)
    source = _made(name, tmp_path / "deep")
    collapse_model(source, tmp_path / "small", texts(), budget=lcjax.Params(0.75), options=options)
    variables = load_model(tmp_path / "small")[1]
    trained = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(7 * leaf), variables)
    save_model(tmp_path / "trained", trained, like=tmp_path / "small")
    _check_in_pytorch(tmp_path / "trained", name, tmp_path)


def _check_in_pytorch(folder, name, work):
    """Compares a folder in lcjax with transformers; of decoders also what they generate."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, VOCABULARY, (3, 12)).astype(np.int32)
    mask = np.arange(12)[None] < np.array([12, 9, 12])[:, None]
    model, variables = load_model(folder)
    ours = np.asarray(jax.jit(model.apply)(variables, jnp.asarray(tokens), jnp.asarray(mask)))
    flags = [] if "bert" in name else ["--generate"]
    theirs = run_in_pytorch(folder, {"tokens": tokens, "mask": mask}, work, *flags)
    assert ours.std() > 0.05
    np.testing.assert_allclose(ours[mask], theirs["out"][mask], atol=1e-4)
    if flags:
        np.testing.assert_array_equal(_greedy(model, variables, tokens[0], 50), theirs["generated"])
