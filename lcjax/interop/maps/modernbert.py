"""ModernBERT with the names of Hugging Face transformers."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcjax.interop import configs
from lcjax.interop.layouts import FLAT, SAME, linear, one_of
from lcjax.interop.name_map import NameMap, Rule, dense_rules, norm_rules
from lcjax.models.modernbert import ModernBERT

_LAYER = "layers.{i}"
_FULL, _SLIDING = "full_attention", "sliding_attention"


def _fused_rules(path: str, names: tuple[str, ...], tensor: str) -> list[Rule]:
    """Returns the rules of Dense layers that one Linear concatenates."""
    rules = []
    for which, name in enumerate(names):
        kernel, bias = (one_of(len(names), which, layout, axis=0) for layout in (linear(), FLAT))
        rules.append(Rule(f"{path}/{name}/kernel", f"{tensor}.weight", kernel))
        rules.append(Rule(f"{path}/{name}/bias", f"{tensor}.bias", bias))
    return rules


_RULES = (
    Rule("token_embedding/embedding", "embeddings.tok_embeddings.weight", SAME),
    *norm_rules("norm", "embeddings.norm"),
    *norm_rules("block_{i}/norm_1", f"{_LAYER}.attn_norm"),
    *_fused_rules("block_{i}/attention", ("query", "key", "value"), f"{_LAYER}.attn.Wqkv"),
    *dense_rules("block_{i}/attention/out", f"{_LAYER}.attn.Wo", linear(inputs=2)),
    *norm_rules("block_{i}/norm_2", f"{_LAYER}.mlp_norm"),
    *_fused_rules("block_{i}/mlp", ("gate", "up"), f"{_LAYER}.mlp.Wi"),
    *dense_rules("block_{i}/mlp/down", f"{_LAYER}.mlp.Wo"),
    *norm_rules("final_norm", "final_norm"),
    *dense_rules("pooler", "head.dense"),
    *norm_rules("pooler_norm", "head.norm"),
    *dense_rules("head", "classifier"),
)


def _inputs(model: ModernBERT, stored: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)


def _fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config.get("model_type") != "modernbert":
        return None
    configs.check_same_function(config, {}, "ModernBERT")
    num_classes, pools = configs.classes(config), {"cls": "token", "mean": "mean"}
    pool = config.get("classifier_pooling", "cls")
    if not isinstance(pool, str) or pool not in pools:
        raise configs.error("classifier_pooling", pool, "cls or mean")
    depth = configs.depth(config, "num_hidden_layers")
    return dict(
        num_classes=num_classes,
        depth=depth,
        width=configs.positive_int(config, "hidden_size"),
        num_heads=configs.heads(config, "num_attention_heads", "hidden_size"),
        mlp_hidden=configs.positive_int(config, "intermediate_size"),
        pool=None if num_classes is None else pools[pool],
        vocab_size=configs.positive_int(config, "vocab_size"),
        max_length=configs.positive_int(config, "max_position_embeddings"),
        window=configs.positive_int(config, "local_attention"),
        global_every=_global_every(config, depth),
        theta=_theta(config, _FULL, "global_rope_theta"),
        local_theta=_theta(config, _SLIDING, "local_rope_theta"),
        activation=configs.activation(config, "hidden_activation"),
        head_activation=configs.activation(config, "classifier_activation"),
        epsilon=configs.epsilon(config, "norm_eps"),
        norm_bias=configs.flag(config, "norm_bias", False),
        attention_bias=configs.flag(config, "attention_bias", False),
        mlp_bias=configs.flag(config, "mlp_bias", False),
        pooler_bias=configs.flag(config, "classifier_bias", False),
    )


def _global_every(config: Mapping[str, Any], depth: int) -> int:
    """Returns how many blocks there are for each without a window; layer_types must agree."""
    every = configs.optional_int(config, "global_attn_every_n_layers") or 3
    given = config.get("layer_types")
    if given is not None and given != [_SLIDING if i % every else _FULL for i in range(depth)]:
        raise configs.error("layer_types", given, f"every {every}th of {depth} blocks {_FULL}")
    return every


def _theta(config: Mapping[str, Any], kind: str, name: str) -> float:
    """Returns the base of rotary frequencies, of a field of transformers 4 or 5."""
    nested = config.get("rope_parameters")
    if isinstance(nested, dict) and isinstance(nested.get(kind), dict):
        configs.check_same_function(nested[kind], {"rope_type": "default"}, "ModernBERT")
        return configs.positive_number(nested[kind], "rope_theta")
    config = {"local_rope_theta": 10_000.0, **config}
    if config.get(name) is None and kind == _SLIDING:
        name = "global_rope_theta"
    return configs.positive_number(config, name)


MODERNBERT_MAP = NameMap(
    library="Hugging Face",
    model=ModernBERT,
    marker="layers.0.attn.Wqkv.weight",
    rules=lambda model: _RULES,
    inputs=_inputs,
    fields=_fields,
    types=("modernbert",),
)
