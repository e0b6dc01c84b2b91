"""Vision Transformers with the names of timm and of Hugging Face transformers."""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.interop import configs
from lcjax.interop.layouts import CONV, FLAT, SAME, linear, one_of
from lcjax.interop.name_map import NameMap, Rule, dense_rules, norm_rules
from lcjax.interop.safetensors_file import Stored
from lcjax.models.vit import ViT

_LARGEST_PATCH = 2**12
_HF_FIXED = {"qkv_bias": True}
_TIMM_FIXED = {"global_pool": "token"}
_POSITIONS, _HF_POSITIONS = "pos_embed", "embeddings.position_embeddings"
_TABLES = (_POSITIONS, _HF_POSITIONS, "params/positions")  # the last in files of lcjax


def _qkv_rules(child: str, which: int) -> list[Rule]:
    """Returns the rules for query, key or value, which timm concatenates in one Linear."""
    path = f"block_{{i}}/attention/{child}"
    return [
        Rule(f"{path}/kernel", "blocks.{i}.attn.qkv.weight", one_of(3, which, linear(), axis=0)),
        Rule(f"{path}/bias", "blocks.{i}.attn.qkv.bias", one_of(3, which, FLAT, axis=0)),
    ]


_TIMM_RULES = (
    *dense_rules("patches/project", "patch_embed.proj", CONV),
    Rule("class_token", "cls_token", SAME),
    Rule("positions", _POSITIONS, SAME),
    *norm_rules("block_{i}/norm_1", "blocks.{i}.norm1"),
    *_qkv_rules("query", 0),
    *_qkv_rules("key", 1),
    *_qkv_rules("value", 2),
    *dense_rules("block_{i}/attention/out", "blocks.{i}.attn.proj", linear(inputs=2)),
    *norm_rules("block_{i}/norm_2", "blocks.{i}.norm2"),
    *dense_rules("block_{i}/mlp/dense_0", "blocks.{i}.mlp.fc1"),
    *dense_rules("block_{i}/mlp/dense_1", "blocks.{i}.mlp.fc2"),
    *norm_rules("norm", "norm"),
    *dense_rules("head", "head"),
)
_LAYER = "encoder.layer.{i}"
_HF_RULES = (
    *dense_rules("patches/project", "embeddings.patch_embeddings.projection", CONV),
    Rule("class_token", "embeddings.cls_token", SAME),
    Rule("positions", _HF_POSITIONS, SAME),
    *norm_rules("block_{i}/norm_1", f"{_LAYER}.layernorm_before"),
    *dense_rules("block_{i}/attention/query", f"{_LAYER}.attention.attention.query"),
    *dense_rules("block_{i}/attention/key", f"{_LAYER}.attention.attention.key"),
    *dense_rules("block_{i}/attention/value", f"{_LAYER}.attention.attention.value"),
    *dense_rules("block_{i}/attention/out", f"{_LAYER}.attention.output.dense", linear(inputs=2)),
    *norm_rules("block_{i}/norm_2", f"{_LAYER}.layernorm_after"),
    *dense_rules("block_{i}/mlp/dense_0", f"{_LAYER}.intermediate.dense"),
    *dense_rules("block_{i}/mlp/dense_1", f"{_LAYER}.output.dense"),
    *norm_rules("norm", "layernorm"),
    *dense_rules("head", "classifier"),
)


def _inputs(model: ViT, stored: Mapping[str, Stored]) -> jax.ShapeDtypeStruct:
    """Returns a square image with the number of patches of the file's position table."""
    shape = next((stored[name].shape for name in _TABLES if name in stored), ())
    patches = shape[1] - (model.pool == "token") if len(shape) == 3 else 1
    edge = max(1, isqrt(patches)) * model.patch_size
    return jax.ShapeDtypeStruct((1, edge, edge, 3), jnp.float32)


def _timm_fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    named = str(config.get("architecture", "")).split(".")[0]
    found = re.fullmatch(r"(?:vit|deit)_(tiny|small|base|large)_patch(\d{1,4})_\d+", named)
    if not found:
        return None
    size = {"tiny": "Ti", "small": "S", "base": "B", "large": "L"}[found[1]]
    configs.check_same_function(config, _TIMM_FIXED, "ViT")
    configs.check_harmless_arguments(config, "ViT")
    model = ViT.from_preset(f"{size}/{found[2]}", num_classes=configs.timm_classes(config))
    fields = "num_classes patch_size depth width num_heads mlp_hidden activation epsilon".split()
    return {field: getattr(model, field) for field in fields}


def _hf_fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config.get("model_type") != "vit":
        return None
    configs.check_same_function(config, _HF_FIXED, "ViT")
    return dict(
        num_classes=configs.classes(config),
        patch_size=configs.positive_int(config, "patch_size", largest=_LARGEST_PATCH),
        depth=configs.depth(config, "num_hidden_layers"),
        width=configs.positive_int(config, "hidden_size"),
        num_heads=configs.heads(config, "num_attention_heads", "hidden_size"),
        mlp_hidden=configs.positive_int(config, "intermediate_size"),
        activation=configs.activation(config, "hidden_act"),
        epsilon=configs.epsilon(config, "layer_norm_eps"),
    )


TIMM_VIT_MAP = NameMap(
    library="timm",
    model=ViT,
    marker="patch_embed.proj.weight",
    rules=lambda model: _TIMM_RULES,
    inputs=_inputs,
    fields=_timm_fields,
)
HF_VIT_MAP = NameMap(
    library="Hugging Face",
    model=ViT,
    marker="embeddings.patch_embeddings.projection.weight",
    rules=lambda model: _HF_RULES,
    inputs=_inputs,
    fields=_hf_fields,
    prefix="vit.",
)
