"""Vision Transformer."""

from collections.abc import Callable
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.models.gelu import exact_gelu
from lcjax.models.patches import PatchEmbedding, preset_fields
from lcjax.models.transformer import TransformerBlock, run_block

_SIZES = {
    "Ti": dict(depth=12, width=192, num_heads=3, mlp_hidden=768),
    "S": dict(depth=12, width=384, num_heads=6, mlp_hidden=1536),
    "B": dict(depth=12, width=768, num_heads=12, mlp_hidden=3072),
    "L": dict(depth=24, width=1024, num_heads=16, mlp_hidden=4096),
}


class ViT(nn.Module):
    """Vision Transformer: patch embedding, learned positions, pre-norm blocks, layer norm, head.

    The positions fix the number of tokens, hence the image size, at `init`.

    Attributes:
      num_classes: width of the head; None for no head: what it would read is returned.
      patch_size: edge of a patch in pixels.
      depth: number of blocks.
      width: of a token.
      num_heads: divides the width.
      mlp_hidden: hidden width of the MLPs.
      pool: what the head reads: "token", a class token of its own, or "mean" over the patches,
        with no class token (Beyer et al. 2022, arXiv 2205.01580).
      activation: elementwise; exact GELU by default.
      gated: whether the MLPs are gated, `nn.silu` for the activation giving SwiGLU; not published.
      epsilon: of the layer norms; 1e-6 in timm's models, 1e-12 in Hugging Face's.
      dropout: rate, after the positions, within MLPs (not gated ones), after every branch.
      dtype: of the computation; None takes the images'. Params and logits are float32.
      remat: whether the backward pass computes blocks again, instead of keeping their insides.

    References: Dosovitskiy et al. 2020, arXiv 2010.11929, table 1; Touvron et al. 2020,
    arXiv 2012.12877, for sizes Ti and S.
    """

    num_classes: int | None
    patch_size: int
    depth: int
    width: int
    num_heads: int
    mlp_hidden: int
    pool: Literal["token", "mean"] = "token"
    activation: Callable[[jax.Array], jax.Array] = exact_gelu
    gated: bool = False
    epsilon: float = 1e-6
    dropout: float = 0.0
    dtype: Any = None
    remat: bool = False

    @classmethod
    def from_preset(cls, preset: str, *, num_classes: int | None, **fields: Any) -> Self:
        """Returns the published size Ti, S, B or L at any patch size: "B/16".

        Args:
          preset: size, slash, edge of a patch in pixels.
          num_classes: width of the head, or None.
          **fields: attributes that replace the preset's.

        Raises:
          ValueError: when the preset is unknown; lists the known.
        """
        return cls(
            num_classes=num_classes, **(preset_fields(preset, _SIZES, cls.__name__) | fields)
        )

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns logits, float32 (batch, classes), of images (batch, height, width, channels).

        With no head it returns what the head would read, float32 (batch, width).

        Raises:
          ValueError: when patches do not tile the images, or `pool` is neither of the two.
        """
        if self.pool not in ("token", "mean"):
            raise ValueError(f"ViT got pool={self.pool!r}; wanted 'token' or 'mean'.")
        x = PatchEmbedding(self.width, self.patch_size, self.dtype, name="patches")(images)
        if self.pool == "token":
            token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
            token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        init = nn.initializers.truncated_normal(0.02)
        positions = self.param("positions", init, (1, *x.shape[1:]))
        x = nn.Dropout(self.dropout, deterministic=deterministic, name="drop")(
            x + positions.astype(x.dtype)
        )
        for i in range(self.depth):
            block = TransformerBlock(
                num_heads=self.num_heads,
                mlp_hidden=self.mlp_hidden,
                activation=self.activation,
                gated=self.gated,
                epsilon=self.epsilon,
                dropout=self.dropout,
                mlp_dropout=self.dropout,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = run_block(block, x, deterministic=deterministic, remat=self.remat)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        x = x[:, 0] if self.pool == "token" else x.mean(axis=1)
        if self.num_classes is not None:
            x = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        return x.astype(jnp.float32)
