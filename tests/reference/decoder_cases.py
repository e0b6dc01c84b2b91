"""Tiny decoders of every family, with texts on which transformers' own modules are the reference.

The golden values in decoders.json, which `python -m tests.reference.decoder_programs` writes, are
config.json as transformers saves it, names and shapes of the tensors, and the logits.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference.random_tensors import stream, weights

FILE = Path(__file__).parent / "decoders.json"
VOCABULARY, LENGTH = 20, 12
MASK = np.ones((2, LENGTH), np.int64)
MASK[1, :3] = 0
TOKENS = stream("decoder tokens").randint(0, VOCABULARY, MASK.shape)

_SIZES: dict[str, Any] = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    vocab_size=VOCABULARY,
    max_position_embeddings=64,
    rope_theta=100.0,
)
_LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
# Windows are shorter than the texts, caps near the logits, wavelengths on both sides of the limits.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _SIZES
    | dict(
        model_type="llama", head_dim=8, rope_scaling=_LLAMA3, attention_bias=True, mlp_bias=True
    ),
    "llama_linear": _SIZES
    | dict(model_type="llama", rope_scaling=dict(rope_type="linear", factor=4.0)),
    "smollm": _SIZES
    | dict(
        model_type="llama", hidden_size=12, num_attention_heads=3, num_key_value_heads=1,
        tie_word_embeddings=True,
    ),
    "mistral": _SIZES | dict(model_type="mistral", head_dim=8, sliding_window=4),
    "qwen2": _SIZES
    | dict(
        model_type="qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1,
        tie_word_embeddings=True,
    ),
    "qwen3": _SIZES | dict(model_type="qwen3", head_dim=8),
    "gemma2": _SIZES
    | dict(
        model_type="gemma2", head_dim=8, sliding_window=4, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0, query_pre_attn_scalar=4,
    ),
    "gemma3": _SIZES
    | dict(
        model_type="gemma3_text", head_dim=8, sliding_window=4, num_hidden_layers=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=4, rope_local_base_freq=10.0,
        rope_scaling=dict(rope_type="linear", factor=4.0),
    ),
}  # fmt: skip


def golden() -> dict[str, Any]:
    """Returns config, shapes of tensors and logits of every case."""
    return json.loads(FILE.read_text("utf-8"))


def tensors(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Returns random weights that keep attention and logits away from uniform."""
    made = weights(shapes)
    return {k: 2 * v if "q_proj" in k or "k_proj" in k else v for k, v in made.items()}


def real(logits: np.ndarray) -> np.ndarray:
    """Returns the logits of tokens that are not padding, (tokens, vocabulary)."""
    return logits[MASK.astype(bool)]
