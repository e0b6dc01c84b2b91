"""The sizes and options of a decoder."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from lcjax.models.activations import ACTIVATIONS
from lcjax.models.decoder.rotary import Rope

NO_WINDOW = 2**30


class LayerConstants(NamedTuple):
    """What differs between the blocks of a decoder apart from their params.

    Attributes:
      window: int32, number of tokens that a token may attend to, itself included; NO_WINDOW for
        all.
      frequencies: of the rotary embedding, float32 (head_width / 2,).
    """

    window: np.int32 | np.ndarray | jax.Array
    frequencies: np.ndarray | jax.Array


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and options of a `Decoder`. It is hashable: a static argument of `jax.jit`.

    Attributes:
      vocab_size: number of tokens in the vocabulary.
      width: number of features of a token between blocks.
      depth: number of blocks.
      num_heads: number of query heads.
      num_kv_heads: number of key and value heads; must divide num_heads.
      head_width: number of features of a head; even.
      mlp_hidden: hidden width of the gated MLPs.
      max_length: number of tokens of the longest texts in training; default length of the cache.
      activation: name of the gate's activation in `ACTIVATIONS`.
      epsilon: epsilon of the norms.
      rope: rotary embedding.
      local_rope: rotary embedding of blocks with a window; None for `rope`.
      windows: window of each block, None for no window; empty for no window in any block.
      query_scale: factor of the logits of attention; None is `head_width ** -0.5`.
      qkv_bias: whether query, key and value projections have a bias.
      out_bias: whether the output projection of attention has a bias.
      mlp_bias: whether the three projections of the MLP have a bias.
      qk_norm: whether queries and keys are normalised per head.
      norm_offset: whether norms multiply by `1 + scale` instead of `scale`.
      post_norms: whether the outputs of attention and MLP are normalised before the residual sum.
      attention_softcap: c of `c tanh(logits / c)` in attention; None for no cap.
      logits_softcap: the same for the logits of the vocabulary.
      scale_embedding: whether embeddings are multiplied by `sqrt(width)`.
      tied_head: whether the head is the embedding table.

    Raises:
      ValueError: sizes that are not positive or do not divide as stated.

    Example:
      >>> import lcjax.models
      >>> config = lcjax.models.DecoderConfig(100, 8, 2, 4, 2, 4, 16, windows=(3, None))
      >>> [int(layer.window) for layer in config.layers]
      [3, 1073741824]
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    mlp_hidden: int
    max_length: int = 2048
    activation: str = "silu"
    epsilon: float = 1e-6
    rope: Rope = Rope()
    local_rope: Rope | None = None
    windows: tuple[int | None, ...] = ()
    query_scale: float | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norm_offset: bool = False
    post_norms: bool = False
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    scale_embedding: bool = False
    tied_head: bool = False

    def __post_init__(self):
        sizes = "vocab_size width depth num_heads num_kv_heads head_width mlp_hidden max_length"
        for name in sizes.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 1 or more.")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads: got {self.num_kv_heads}, expected a divisor of num_heads="
                f"{self.num_heads}."
            )
        if self.head_width % 2:
            raise ValueError(
                f"head_width: got {self.head_width}, expected an even number: the rotary embedding "
                "turns pairs of features."
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: got {self.activation!r}, expected one of {', '.join(ACTIVATIONS)}."
            )
        if self.windows and len(self.windows) != self.depth:
            raise ValueError(
                f"windows: got {len(self.windows)}, expected one for each of {self.depth} blocks."
            )
        for window in self.windows:
            if window is not None and not 1 <= window <= NO_WINDOW:
                raise ValueError(f"windows: got {window}, expected 1 or more, or None.")
        for name in ("attention_softcap", "logits_softcap", "query_scale"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: got {value}, expected a positive number or None.")

    @property
    def layers(self) -> tuple[LayerConstants, ...]:
        """The constants of each block."""
        ropes = self.rope, self.local_rope or self.rope
        both = [rope.frequencies(self.head_width) for rope in ropes]
        return tuple(
            LayerConstants(np.int32(window or NO_WINDOW), both[window is not None])
            for window in self.windows or (None,) * self.depth
        )
