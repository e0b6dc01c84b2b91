"""BERT and RoBERTa with the names of Hugging Face transformers."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.interop import configs
from lcjax.interop.layouts import SAME, linear
from lcjax.interop.name_map import NameMap, Rule, dense_rules, norm_rules
from lcjax.models.bert import BERT

_BUFFERS = (r"embeddings\.(position|token_type)_ids",)
_LAYER = "encoder.layer.{i}"
# A decoder is causal and may attend to another model; relative positions have more weights.
_FIXED = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}
_BODY = (
    Rule("token_embedding/embedding", "embeddings.word_embeddings.weight", SAME),
    Rule("position_embedding/embedding", "embeddings.position_embeddings.weight", SAME),
    Rule("type_embedding/embedding", "embeddings.token_type_embeddings.weight", SAME),
    *norm_rules("norm", "embeddings.LayerNorm"),
    *dense_rules("block_{i}/attention/query", f"{_LAYER}.attention.self.query"),
    *dense_rules("block_{i}/attention/key", f"{_LAYER}.attention.self.key"),
    *dense_rules("block_{i}/attention/value", f"{_LAYER}.attention.self.value"),
    *dense_rules("block_{i}/attention/out", f"{_LAYER}.attention.output.dense", linear(inputs=2)),
    *norm_rules("block_{i}/norm_1", f"{_LAYER}.attention.output.LayerNorm"),
    *dense_rules("block_{i}/mlp/dense_0", f"{_LAYER}.intermediate.dense"),
    *dense_rules("block_{i}/mlp/dense_1", f"{_LAYER}.output.dense"),
    *norm_rules("block_{i}/norm_2", f"{_LAYER}.output.LayerNorm"),
)
_RULES = (*_BODY, *dense_rules("pooler", "pooler.dense"), *dense_rules("head", "classifier"))
# RoBERTa's classifier has a pooler of its own.
_ROBERTA_RULES = (
    *_BODY,
    *dense_rules("pooler", "classifier.dense"),
    *dense_rules("head", "classifier.out_proj"),
)


def _inputs(model: BERT, stored: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)


def _fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    return _sizes(config) if config.get("model_type") == "bert" else None


def _roberta_fields(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config.get("model_type") != "roberta":
        return None
    sizes = _sizes(config)
    offset = configs.natural(config, "pad_token_id", 1) + 1
    rows = sizes["max_length"]
    if rows <= offset:
        raise configs.error("max_position_embeddings", rows, f"more than {offset}")
    return sizes | dict(max_length=rows - offset, position_offset=offset)


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    configs.check_same_function(config, _FIXED, "BERT")
    return dict(
        num_classes=configs.classes(config),
        depth=configs.depth(config, "num_hidden_layers"),
        width=configs.positive_int(config, "hidden_size"),
        num_heads=configs.heads(config, "num_attention_heads", "hidden_size"),
        mlp_hidden=configs.positive_int(config, "intermediate_size"),
        vocab_size=configs.positive_int(config, "vocab_size"),
        max_length=configs.positive_int(config, "max_position_embeddings"),
        token_types=configs.positive_int(config, "type_vocab_size"),
        activation=configs.activation(config, "hidden_act"),
        epsilon=configs.epsilon(config, "layer_norm_eps"),
        position_offset=0,
        pooler_activation=nn.tanh,
    )


BERT_MAP = NameMap(
    library="Hugging Face",
    model=BERT,
    marker="embeddings.word_embeddings.weight",
    rules=lambda model: _RULES,
    inputs=_inputs,
    fields=_fields,
    prefix="bert.",
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    buffers=_BUFFERS,
    types=("bert",),
)
ROBERTA_MAP = NameMap(
    library="Hugging Face",
    model=BERT,
    marker="embeddings.word_embeddings.weight",
    rules=lambda model: _RULES if model.num_classes is None else _ROBERTA_RULES,
    inputs=_inputs,
    fields=_roberta_fields,
    prefix="roberta.",
    buffers=_BUFFERS,
    types=("roberta",),
)
