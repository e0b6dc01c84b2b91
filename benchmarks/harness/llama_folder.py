"""A model folder of a Llama with random bfloat16 weights, as transformers writes it."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lcjax.folder.storage.shard_writer import NewTensor, ShardWriter
from lcjax.models import DecoderConfig
from lcjax.models.decoder.presets import preset_config

TEXTS = "texts.txt"  # next to the folder
_WORDS, _CHUNK = 1000, 2**24  # words of the tokenizer; values that are made at once


def llama(preset: str, depth: int) -> DecoderConfig:
    """Returns the config of a published Llama with so many layers; 0 for all."""
    config = preset_config(preset)
    return dataclasses.replace(config, depth=depth or config.depth)


def matrices(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """Returns the shapes of a layer's matrices by the names of transformers, (out, in)."""
    width, head = config.width, config.head_width
    queries, keys = config.num_heads * head, config.num_kv_heads * head
    return {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (config.mlp_hidden, width),
        "mlp.up_proj": (config.mlp_hidden, width),
        "mlp.down_proj": (width, config.mlp_hidden),
    }


def make(preset: str, depth: str, path: str, texts: str, length: str) -> None:
    """Writes the folder, a file for each layer, and the texts to calibrate on."""
    config, folder = llama(preset, int(depth)), Path(path)
    folder.mkdir(parents=True)
    norm, table = (config.width,), (config.vocab_size, config.width)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table}
    files = {"model.embed_tokens.weight": 0, "model.norm.weight": 0}
    shapes |= {"model.norm.weight": norm}
    if not config.tied_head:
        shapes["lm_head.weight"], files["lm_head.weight"] = table, 0
    norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), norm)
    for i in range(config.depth):
        own = {f"model.layers.{i}.{name}.weight" for name in (*matrices(config), *norms)}
        files |= dict.fromkeys(sorted(own), i + 1)
        for name, shape in {**matrices(config), **norms}.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    total = config.depth + 1
    named = {name: f"model-{i + 1:05d}-of-{total:05d}.safetensors" for name, i in files.items()}
    tensors = {name: NewTensor.of(named[name], "BF16", shapes[name]) for name in named}
    writer = ShardWriter(folder, tensors, dict.fromkeys(named.values(), {"format": "pt"}))
    writer.create()
    random = np.random.default_rng(0)
    for name, tensor in tensors.items():
        writer.write_bytes(name, _random_bytes(random, name, tensor))
    _write_rest(folder, config, named, sum(tensor.bytes for tensor in tensors.values()))
    rows = random.integers(0, _WORDS, (int(texts), int(length)))
    lines = [" ".join(f"w{word}" for word in row) for row in rows]
    folder.with_name(TEXTS).write_text("\n".join(lines))


def _random_bytes(
    random: np.random.Generator, name: str, tensor: NewTensor
) -> Iterator[memoryview]:
    """Yields the values of a tensor in pieces: norms of 1, others normal by their inputs."""
    left = tensor.bytes // 2
    scale = np.float32(1 if "embed" in name else tensor.shape[-1] ** -0.5)
    while left:
        count = min(left, _CHUNK)
        values = np.ones(count, np.float32)
        if "norm" not in name:
            values = scale * random.standard_normal(count, np.float32)
        yield values.astype(jnp.bfloat16).view(np.uint8).data
        left -= count


def _write_rest(folder: Path, config: DecoderConfig, named: dict[str, str], size: int) -> None:
    described = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": config.width,
        "intermediate_size": config.mlp_hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "hidden_act": "silu",
        "rms_norm_eps": config.epsilon,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "bfloat16",
    }
    words = {f"w{i}": i for i in range(_WORDS)}
    tokenizer = {
        "version": "1.0",
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    index = {"metadata": {"total_size": size}, "weight_map": named}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
