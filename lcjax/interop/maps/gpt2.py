"""GPT-2 with the names of OpenAI and Hugging Face transformers, in the layout of Conv1D."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.interop import configs
from lcjax.interop.layouts import FLAT, SAME, conv1d, one_of
from lcjax.interop.name_map import NameMap, Rule, dense_rules, norm_rules
from lcjax.models.gpt2 import GPT2

# Attention is scaled by the root of the head width only; the head is the embedding.
_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def _qkv_rules(child: str, which: int) -> list[Rule]:
    """Returns the rules for query, key or value, which c_attn concatenates."""
    path = f"block_{{i}}/attention/{child}"
    return [
        Rule(f"{path}/kernel", "h.{i}.attn.c_attn.weight", one_of(3, which, conv1d(), axis=1)),
        Rule(f"{path}/bias", "h.{i}.attn.c_attn.bias", one_of(3, which, FLAT, axis=0)),
    ]


_RULES = (
    Rule("token_embedding/embedding", "wte.weight", SAME),
    Rule("position_embedding/embedding", "wpe.weight", SAME),
    *norm_rules("block_{i}/norm_1", "h.{i}.ln_1"),
    *_qkv_rules("query", 0),
    *_qkv_rules("key", 1),
    *_qkv_rules("value", 2),
    *dense_rules("block_{i}/attention/out", "h.{i}.attn.c_proj", conv1d(inputs=2)),
    *norm_rules("block_{i}/norm_2", "h.{i}.ln_2"),
    *dense_rules("block_{i}/mlp/dense_0", "h.{i}.mlp.c_fc", conv1d()),
    *dense_rules("block_{i}/mlp/dense_1", "h.{i}.mlp.c_proj", conv1d()),
    *norm_rules("norm", "ln_f"),
)


def _inputs(model: GPT2, stored: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)


def _fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config.get("model_type") != "gpt2":
        return None
    configs.check_same_function(config, _FIXED, "GPT2")
    return dict(
        depth=configs.depth(config, "n_layer"),
        width=configs.positive_int(config, "n_embd"),
        num_heads=configs.heads(config, "n_head", "n_embd"),
        mlp_hidden=configs.optional_int(config, "n_inner"),
        vocab_size=configs.positive_int(config, "vocab_size"),
        max_length=configs.positive_int(config, "n_positions"),
        activation=configs.activation(config, "activation_function"),
        epsilon=configs.epsilon(config, "layer_norm_epsilon"),
    )


GPT2_MAP = NameMap(
    library="Hugging Face",
    model=GPT2,
    marker="wpe.weight",
    rules=lambda model: _RULES,
    inputs=_inputs,
    fields=_fields,
    prefix="transformer.",
    buffers=(r"h\.\d+\.attn\.(masked_)?bias",),  # the causal mask
    tied=lambda model: {"lm_head.weight": "wte.weight"},
)
