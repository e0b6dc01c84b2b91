"""Decoders of the Llama family with the names of Hugging Face transformers."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.interop.layouts import SAME, linear
from lcjax.interop.maps.decoder_configs import MODEL_TYPES, decoder_config
from lcjax.interop.name_map import NameMap, Rule, dense_rules
from lcjax.models.decoder import Decoder

_LAYER, _EMBEDDING, _HEAD = "layers.{i}", "embed_tokens.weight", "lm_head.weight"


def _norm(path: str, name: str) -> Rule:
    return Rule(f"{path}/scale", f"{name}.weight", SAME)


_RULES = (
    Rule("embed/embedding", _EMBEDDING, SAME),
    _norm("block_{i}/norm_1", f"{_LAYER}.input_layernorm"),
    *dense_rules("block_{i}/attention/query", f"{_LAYER}.self_attn.q_proj"),
    *dense_rules("block_{i}/attention/key", f"{_LAYER}.self_attn.k_proj"),
    *dense_rules("block_{i}/attention/value", f"{_LAYER}.self_attn.v_proj"),
    _norm("block_{i}/attention/query_norm", f"{_LAYER}.self_attn.q_norm"),
    _norm("block_{i}/attention/key_norm", f"{_LAYER}.self_attn.k_norm"),
    *dense_rules("block_{i}/attention/out", f"{_LAYER}.self_attn.o_proj", linear(inputs=2)),
    *dense_rules("block_{i}/mlp/gate", f"{_LAYER}.mlp.gate_proj"),
    *dense_rules("block_{i}/mlp/up", f"{_LAYER}.mlp.up_proj"),
    *dense_rules("block_{i}/mlp/down", f"{_LAYER}.mlp.down_proj"),
    _norm("head/norm", "norm"),
    Rule("head/kernel", _HEAD, linear()),
)
# Where outputs of the branches are normalised too, "post_attention" is the first of these norms.
_NORMS = (_norm("block_{i}/norm_2", f"{_LAYER}.post_attention_layernorm"),)
_POST_NORMS = (
    _norm("block_{i}/post_norm_1", f"{_LAYER}.post_attention_layernorm"),
    _norm("block_{i}/norm_2", f"{_LAYER}.pre_feedforward_layernorm"),
    _norm("block_{i}/post_norm_2", f"{_LAYER}.post_feedforward_layernorm"),
)


def _rules(model: Decoder) -> tuple[Rule, ...]:
    return (*_RULES, *(_POST_NORMS if model.config.post_norms else _NORMS))


def _inputs(model: Decoder, stored: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)


def _fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    described = decoder_config(config)
    return None if described is None else {"config": described}


DECODER_MAP = NameMap(
    library="Hugging Face",
    model=Decoder,
    marker="layers.0.self_attn.q_proj.weight",
    rules=_rules,
    inputs=_inputs,
    fields=_fields,
    buffers=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    tied=lambda model: {_HEAD: _EMBEDDING} if model.config.tied_head else {},
    types=MODEL_TYPES,
)
