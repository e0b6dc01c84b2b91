"""MLP-Mixer with the names of timm."""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.interop import configs
from lcjax.interop.layouts import CONV
from lcjax.interop.name_map import NameMap, dense_rules, norm_rules
from lcjax.interop.safetensors_file import Stored
from lcjax.models.mixer import MLPMixer

_RULES = (
    *dense_rules("patches/project", "stem.proj", CONV),
    *norm_rules("block_{i}/norm_1", "blocks.{i}.norm1"),
    *dense_rules("block_{i}/mlp_1_tokens/dense_0", "blocks.{i}.mlp_tokens.fc1"),
    *dense_rules("block_{i}/mlp_1_tokens/dense_1", "blocks.{i}.mlp_tokens.fc2"),
    *norm_rules("block_{i}/norm_2", "blocks.{i}.norm2"),
    *dense_rules("block_{i}/mlp_2_channels/dense_0", "blocks.{i}.mlp_channels.fc1"),
    *dense_rules("block_{i}/mlp_2_channels/dense_1", "blocks.{i}.mlp_channels.fc2"),
    *norm_rules("norm", "norm"),
    *dense_rules("head", "head"),
)
# Last bias of the first token MLP, in files of timm and of lcjax.
_LAST_BIASES = ("blocks.0.mlp_tokens.fc2.bias", "params/block_0/mlp_1_tokens/dense_1/bias")


def _inputs(model: MLPMixer, stored: Mapping[str, Stored]) -> jax.ShapeDtypeStruct:
    """Returns a square image with the number of patches of the file's first token MLP."""
    shape = next((stored[name].shape for name in _LAST_BIASES if name in stored), ())
    patches = shape[0] if shape else 1
    edge = max(1, isqrt(patches)) * model.patch_size
    return jax.ShapeDtypeStruct((1, edge, edge, 3), jnp.float32)


def _fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    named = str(config.get("architecture", "")).split(".")[0]
    found = re.fullmatch(r"mixer_([sbl])(\d{1,4})_\d+", named)
    if not found:
        return None
    configs.check_same_function(config, {"global_pool": "avg"}, "MLPMixer")
    configs.check_harmless_arguments(config, "MLPMixer")
    preset = f"{found[1].upper()}/{found[2]}"
    model = MLPMixer.from_preset(preset, num_classes=configs.timm_classes(config))
    sizes = "num_classes patch_size depth width token_hidden channel_hidden activation".split()
    return {field: getattr(model, field) for field in sizes}


TIMM_MIXER_MAP = NameMap(
    library="timm",
    model=MLPMixer,
    marker="stem.proj.weight",
    rules=lambda model: _RULES,
    inputs=_inputs,
    fields=_fields,
)
