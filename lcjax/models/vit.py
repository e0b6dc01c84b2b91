"""Vision Transformer."""

from collections.abc import Callable
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.models.activations import exact_gelu
from lcjax.models.patch_embedding import PatchEmbedding
from lcjax.models.presets import patch_preset_fields
from lcjax.models.transformer import TransformerBlock, apply_block

_SIZES = {
    "Ti": dict(depth=12, width=192, num_heads=3, mlp_hidden=768),
    "S": dict(depth=12, width=384, num_heads=6, mlp_hidden=1536),
    "B": dict(depth=12, width=768, num_heads=12, mlp_hidden=3072),
    "L": dict(depth=24, width=1024, num_heads=16, mlp_hidden=4096),
}


class ViT(nn.Module):
    """Vision Transformer: patch embedding, learned positions, pre-norm blocks, layer norm, head.

    `init` fixes the number of tokens, and so the image size, in the table of positions.

    Attributes:
      num_classes: width of the head; None for no head, which returns the head's input.
      patch_size: height and width of a patch in pixels.
      depth: number of blocks.
      width: number of features of a token.
      num_heads: number of attention heads; must divide the width.
      mlp_hidden: hidden width of the MLPs.
      pool: input of the head: "token", a class token, or "mean", the mean over the patches without
        a class token (Beyer et al. 2022, arXiv 2205.01580).
      activation: elementwise; exact GELU by default.
      glu: whether the MLPs are gated linear units; SwiGLU with `nn.silu`. Not published.
      epsilon: epsilon of the layer norms; 1e-6 in timm's models, 1e-12 in Hugging Face's.
      dropout: rate, after the positions, in MLPs without glu, and after every residual branch.
      dtype: dtype of the computation; None uses the images'. Params and logits are float32.
      remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax.models
      >>> model = lcjax.models.ViT.from_preset("Ti/16", num_classes=10)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
      (1, 10)

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
    glu: bool = False
    epsilon: float = 1e-6
    dropout: float = 0.0
    dtype: Any = None
    remat: bool = False

    @classmethod
    def from_preset(cls, preset: str, *, num_classes: int | None, **fields: Any) -> Self:
        """Returns the published size Ti, S, B or L at any patch size: "B/16".

        Args:
          preset: size, slash, patch size in pixels.
          num_classes: width of the head, or None.
          **fields: attributes that override the preset's.

        Raises:
          ValueError: unknown preset; lists the known ones.
        """
        return cls(
            num_classes=num_classes, **(patch_preset_fields(preset, _SIZES, cls.__name__) | fields)
        )

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns logits, float32 (batch, classes), of images (batch, height, width, channels).

        Without a head it returns the head's input, float32 (batch, width).

        Raises:
          ValueError: images with other axes, a patch size that does not divide their edges, or an
            unknown `pool`.
        """
        if self.pool not in ("token", "mean"):
            raise ValueError(f"ViT: got pool={self.pool!r}, expected 'token' or 'mean'.")
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
                glu=self.glu,
                epsilon=self.epsilon,
                dropout=self.dropout,
                mlp_dropout=self.dropout,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = apply_block(block, x, deterministic=deterministic, remat=self.remat)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        x = x[:, 0] if self.pool == "token" else x.mean(axis=1)
        if self.num_classes is not None:
            x = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        return x.astype(jnp.float32)
