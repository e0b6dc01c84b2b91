"""DistilBERT with the names of Hugging Face transformers."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.interop import configs
from lcjax.interop.layouts import SAME, linear
from lcjax.interop.name_map import NameMap, Rule, dense_rules, norm_rules
from lcjax.models.bert import BERT

_LAYER = "transformer.layer.{i}"
_EPSILON = 1e-12  # config.json has no field for it
_RULES = (
    Rule("token_embedding/embedding", "embeddings.word_embeddings.weight", SAME),
    Rule("position_embedding/embedding", "embeddings.position_embeddings.weight", SAME),
    *norm_rules("norm", "embeddings.LayerNorm"),
    *dense_rules("block_{i}/attention/query", f"{_LAYER}.attention.q_lin"),
    *dense_rules("block_{i}/attention/key", f"{_LAYER}.attention.k_lin"),
    *dense_rules("block_{i}/attention/value", f"{_LAYER}.attention.v_lin"),
    *dense_rules("block_{i}/attention/out", f"{_LAYER}.attention.out_lin", linear(inputs=2)),
    *norm_rules("block_{i}/norm_1", f"{_LAYER}.sa_layer_norm"),
    *dense_rules("block_{i}/mlp/dense_0", f"{_LAYER}.ffn.lin1"),
    *dense_rules("block_{i}/mlp/dense_1", f"{_LAYER}.ffn.lin2"),
    *norm_rules("block_{i}/norm_2", f"{_LAYER}.output_layer_norm"),
    *dense_rules("pooler", "pre_classifier"),
    *dense_rules("head", "classifier"),
)


def _inputs(model: BERT, stored: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)


def _fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config.get("model_type") != "distilbert":
        return None
    configs.check_same_function(config, {}, "BERT")
    num_classes = configs.classes(config)
    return dict(
        num_classes=num_classes,
        depth=configs.depth(config, "n_layers"),
        width=configs.positive_int(config, "dim"),
        num_heads=configs.heads(config, "n_heads", "dim"),
        mlp_hidden=configs.positive_int(config, "hidden_dim"),
        pool=None if num_classes is None else "pooler",
        vocab_size=configs.positive_int(config, "vocab_size"),
        max_length=configs.positive_int(config, "max_position_embeddings"),
        token_types=0,
        activation=configs.activation(config, "activation"),
        epsilon=_EPSILON,
        position_offset=0,
        pooler_activation=nn.relu,
    )


DISTILBERT_MAP = NameMap(
    library="Hugging Face",
    model=BERT,
    marker="transformer.layer.0.attention.q_lin.weight",
    rules=lambda model: _RULES,
    inputs=_inputs,
    fields=_fields,
    prefix="distilbert.",
    buffers=(r"embeddings\.position_ids",),
    types=("distilbert",),
)
