"""Tiny networks of every architecture, and inputs, for comparisons with other libraries."""

from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from lcjax.models import BERT, GPT2, VGG, MLPMixer, ViT
from tests.reference.random_tensors import stream

_VIT: dict[str, Any] = dict(patch_size=8, depth=2, width=24, num_heads=3, mlp_hidden=96)
_BERT: dict[str, Any] = dict(
    depth=2, width=24, num_heads=3, mlp_hidden=48, vocab_size=40, max_length=12
)
_VGG: dict[str, Any] = dict(stages=((8,), (8, 12), (12,)), hidden=(16, 16))
VOCABULARY = 40
MASK = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]])
LEFT = MASK[:, ::-1]


class Case(NamedTuple):
    """One network and what it is given.

    Attributes:
      model: ours.
      inputs: what it is applied to.
      real: which of the outputs count, where texts are padded; None for all.
    """

    model: nn.Module
    inputs: tuple[np.ndarray, ...]
    real: np.ndarray | None = None


def _images(edge: int = 32) -> tuple[np.ndarray]:
    return (stream("images").standard_normal((2, edge, edge, 3)).astype(np.float32),)


def _tokens() -> np.ndarray:
    return stream("tokens").randint(0, VOCABULARY, MASK.shape)


_TYPES = stream("types").randint(0, 2, MASK.shape)

CASES = {
    "bert_classifier": Case(BERT(3, **_BERT), (_tokens(), MASK, _TYPES)),
    "bert_tokens": Case(BERT(None, pool=None, **_BERT), (_tokens(), MASK), MASK),
    "gpt2": Case(
        GPT2(depth=2, width=24, num_heads=3, vocab_size=40, max_length=12), (_tokens(), LEFT), LEFT
    ),
    "vit_timm": Case(ViT(5, **_VIT), _images()),
    "vit_timm_mean": Case(ViT(5, pool="mean", **_VIT), _images()),
    "vit_hugging_face": Case(ViT(5, epsilon=1e-12, **_VIT), _images()),
    "mixer_timm": Case(
        MLPMixer(5, patch_size=8, depth=2, width=24, token_hidden=12, channel_hidden=96), _images()
    ),
    "vgg": Case(VGG(5, **_VGG), _images(72)),
    "vgg_batch_norm": Case(VGG(5, norm="batch", **_VGG), _images()),
}


def compared(case: Case, outputs: np.ndarray) -> np.ndarray:
    """Returns the outputs that count."""
    return outputs if case.real is None else outputs[case.real.astype(bool)]
