"""Tiny encoders, with texts on which transformers' own modules are the reference.

The golden values in encoders.json, which `python -m tests.reference.encoder_programs` writes, are
config.json as transformers saves it, names and shapes of the tensors, and the outputs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference.random_tensors import stream

FILE = Path(__file__).parent / "encoders.json"
VOCABULARY, PADDING = 20, 1  # the padding of RoBERTa
MASK = np.ones((2, 12), np.int64)
MASK[1, 8:] = 0
TOKENS = np.where(MASK == 1, stream("encoder tokens").randint(2, VOCABULARY, MASK.shape), PADDING)

_BERT: dict[str, Any] = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    vocab_size=VOCABULARY,
    pad_token_id=PADDING,
)
_ROBERTA = _BERT | dict(model_type="roberta", max_position_embeddings=18, type_vocab_size=1)
_DISTIL: dict[str, Any] = dict(
    model_type="distilbert", dim=16, n_layers=2, n_heads=4, hidden_dim=24, vocab_size=VOCABULARY,
    max_position_embeddings=16, pad_token_id=PADDING,
)  # fmt: skip
_MODERN = _BERT | dict(
    model_type="modernbert", num_hidden_layers=4, max_position_embeddings=64, local_attention=6,
    global_rope_theta=100.0, local_rope_theta=10.0, reference_compile=False,
    bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
)  # fmt: skip
# Name: class of transformers, fields of the config.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("AutoModel", _ROBERTA),
    "roberta_classifier": ("AutoModelForSequenceClassification", _ROBERTA | dict(num_labels=3)),
    "distilbert": ("AutoModel", _DISTIL),
    "distilbert_classifier": ("AutoModelForSequenceClassification", _DISTIL | dict(num_labels=3)),
    "modernbert": ("AutoModel", _MODERN),
    "modernbert_classifier": (
        "AutoModelForSequenceClassification",
        _MODERN | dict(num_labels=3, classifier_pooling="mean", mlp_bias=True, norm_bias=True),
    ),
}  # fmt: skip


def golden() -> dict[str, Any]:
    """Returns config, shapes of tensors and outputs of every case."""
    return json.loads(FILE.read_text("utf-8"))


def real(outputs: np.ndarray) -> np.ndarray:
    """Returns the rows of tokens that are not padding, or logits as they are."""
    return outputs[MASK.astype(bool)] if outputs.ndim == 3 else outputs
