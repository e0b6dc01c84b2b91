"""ModernBERT: a pre-norm transformer encoder with rotary positions, windows and gated MLPs."""

from collections.abc import Callable
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.models.activations import exact_gelu
from lcjax.models.decoder.rotary import Rope
from lcjax.models.modernbert.block import ModernBERTBlock
from lcjax.models.presets import preset_fields

_SIZES = {
    "base": dict(depth=22, width=768, num_heads=12, mlp_hidden=1152),
    "large": dict(depth=28, width=1024, num_heads=16, mlp_hidden=2624),
}
_POOLS = ("token", "mean", None)


class ModernBERT(nn.Module):
    """ModernBERT: embeddings of tokens, pre-norm blocks, pooling, pooler and head.

    Every `global_every`th block attends to the whole text, the others to a window around each
    token.

    Attributes:
      num_classes: width of the head; None for no pooler and no head.
      depth: number of blocks.
      width: number of features of a token.
      num_heads: number of attention heads; must divide the width.
      mlp_hidden: hidden width of the gated MLPs.
      pool: "token", the first token; "mean", the mean over tokens that are not padding; None,
        every token.
      vocab_size: size of the vocabulary.
      max_length: number of tokens of the longest texts in training.
      window: tokens in a window, half of them on each side.
      global_every: distance of the blocks without a window; the first has none.
      theta: base of the rotary frequencies in blocks without a window.
      local_theta: that in blocks with one.
      activation: elementwise, of the gates; exact GELU by default.
      head_activation: elementwise, of the pooler.
      epsilon: epsilon of the layer norms.
      norm_bias: whether layer norms have a bias.
      attention_bias: whether the projections of attention have one.
      mlp_bias: whether the projections of the MLPs have one.
      pooler_bias: whether the pooler has one.
      dtype: dtype of the computation. Params and outputs are float32.
      remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax.models
      >>> model = lcjax.models.ModernBERT.from_preset("base", num_classes=2)
      >>> tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)[0].shape
      (1, 2)

    References: Warner et al. 2024, arXiv 2412.13663, section 2.
    """

    num_classes: int | None
    depth: int
    width: int
    num_heads: int
    mlp_hidden: int
    pool: Literal["token", "mean"] | None = "token"
    vocab_size: int = 50_368
    max_length: int = 8192
    window: int = 128
    global_every: int = 3
    theta: float = 160_000.0
    local_theta: float = 10_000.0
    activation: Callable[[jax.Array], jax.Array] = exact_gelu
    head_activation: Callable[[jax.Array], jax.Array] = exact_gelu
    epsilon: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    pooler_bias: bool = False
    dtype: Any = None
    remat: bool = False

    @classmethod
    def from_preset(cls, preset: str, *, num_classes: int | None, **fields: Any) -> Self:
        """Returns the published size base or large.

        Args:
          preset: the size.
          num_classes: width of the head, or None.
          **fields: attributes that override the preset's.

        Raises:
          ValueError: unknown preset; lists the known ones.
        """
        sizes: dict[str, Any] = preset_fields(preset, _SIZES, cls.__name__)
        return cls(num_classes=num_classes, **(sizes | fields))

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Returns logits, float32 (batch, classes), of tokens (batch, tokens).

        Without a head it returns the pooled tokens, (batch, width). With pool None both have one
        more axis, (batch, tokens, ...).

        Args:
          tokens: integers (batch, tokens); NaN results from one that is not in the vocabulary.
          mask: bool or 0 and 1, (batch, tokens); False at padding after the text, to which no
            token attends. None: no padding.
          deterministic: without effect, as there is no dropout.

        Raises:
          ValueError: tokens with other axes, an unknown `pool`, or heads that do not divide.
        """
        self._check(tokens)
        real = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
        init = nn.initializers.truncated_normal(0.02)
        embed = nn.Embed(
            self.vocab_size,
            self.width,
            dtype=self.dtype,
            embedding_init=init,
            name="token_embedding",
        )
        x = self._norm("norm")(embed(tokens))
        block = nn.remat(ModernBERTBlock) if self.remat else ModernBERTBlock
        for i in range(self.depth):
            module = block(**block_fields(self, i), name=f"block_{i}")
            x = module(x, *layer_context(self, i, real))
        x = self._pooled(self._norm("final_norm")(x), real)
        if self.num_classes is not None:
            pooler = nn.Dense(
                self.width, use_bias=self.pooler_bias, dtype=self.dtype, name="pooler"
            )
            x = self._norm("pooler_norm")(self.head_activation(pooler(x)))
            x = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        return x.astype(jnp.float32)

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(
            epsilon=self.epsilon, use_bias=self.norm_bias, dtype=self.dtype, name=name
        )

    def _pooled(self, x: jax.Array, real: jax.Array) -> jax.Array:
        match self.pool:
            case "token":
                return x[:, 0]
            case "mean":
                return x.mean(1, where=real[..., None])
        return x

    def _check(self, tokens: jax.Array) -> None:
        if self.pool not in _POOLS:
            raise ValueError(f"ModernBERT: got pool={self.pool!r}, expected one of {_POOLS}.")
        if tokens.ndim != 2:
            raise ValueError(f"tokens: got shape {tokens.shape}, expected (batch, tokens).")
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"ModernBERT: got {self.num_heads} heads for a width of {self.width}; expected "
                "heads of an even width that divide it."
            )


def block_fields(model: ModernBERT, layer: int) -> dict[str, Any]:
    """Returns the attributes of the `ModernBERTBlock` of a layer."""
    shared = "num_heads mlp_hidden activation epsilon norm_bias attention_bias mlp_bias dtype"
    return {name: getattr(model, name) for name in shared.split()} | {"first": layer == 0}


def layer_context(
    model: ModernBERT, layer: int, real: jax.Array
) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Returns what the block of a layer takes after the tokens: mask, positions, frequencies.

    Args:
      model: says which layers have a window.
      layer: its index.
      real: which tokens are not padding, bool (batch, tokens).
    """
    is_global = layer % model.global_every == 0
    here = jnp.arange(real.shape[1])
    near = jnp.abs(here[:, None] - here[None, :]) <= model.window // 2
    mask = real[:, None, :] & (near | is_global)[None]
    positions = jnp.broadcast_to(here[None], real.shape)
    rope = Rope(model.theta if is_global else model.local_theta)
    return mask, positions, rope.frequencies(model.width // model.num_heads)
