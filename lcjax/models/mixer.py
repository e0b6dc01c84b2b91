"""MLP-Mixer: MLPs across tokens and across channels, without attention."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.models.activations import exact_gelu
from lcjax.models.patch_embedding import PatchEmbedding
from lcjax.models.presets import patch_preset_fields
from lcjax.models.transformer import apply_block
from lcjax.nn.mlp import CollapsibleMLP

_SIZES = {
    "S": dict(depth=8, width=512, token_hidden=256, channel_hidden=2048),
    "B": dict(depth=12, width=768, token_hidden=384, channel_hidden=3072),
    "L": dict(depth=24, width=1024, token_hidden=512, channel_hidden=4096),
}


class MixerBlock(nn.Module):
    """Mixes tokens, then channels; each is a residual branch of a layer norm and an MLP.

    The numbers in `mlp_1_tokens` and `mlp_2_channels` make their natural order the forward order.

    Attributes: as of `MLPMixer`.
    """

    token_hidden: int
    channel_hidden: int
    activation: Callable[[jax.Array], jax.Array]
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns mixed tokens of the same shape, (batch, tokens, width)."""
        mlp = partial(
            CollapsibleMLP, activation=self.activation, dropout=self.dropout, dtype=self.dtype
        )
        drop = nn.Dropout(self.dropout, deterministic=deterministic, name="drop")
        tokens, width = x.shape[-2:]

        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm_1")(x).swapaxes(-1, -2)
        y = mlp(features=(self.token_hidden, tokens), name="mlp_1_tokens")(
            y, deterministic=deterministic
        )
        x = x + drop(y.swapaxes(-1, -2))

        y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm_2")(x)
        y = mlp(features=(self.channel_hidden, width), name="mlp_2_channels")(
            y, deterministic=deterministic
        )
        return x + drop(y)


class MLPMixer(nn.Module):
    """MLP-Mixer: patch embedding, blocks, layer norm, mean over tokens, head.

    `init` fixes the number of tokens, and so the image size, in the widths of the token MLPs.

    Attributes:
      num_classes: width of the head; None for no head, which returns the head's input.
      patch_size: height and width of a patch in pixels.
      depth: number of blocks.
      width: number of channels of a token.
      token_hidden: hidden width of the MLP across tokens.
      channel_hidden: hidden width of the MLP across channels.
      activation: elementwise; exact GELU by default.
      dropout: rate, within and after every MLP.
      dtype: dtype of the computation; None uses the images'. Params and logits are float32.
      remat: whether the backward pass recomputes the blocks instead of storing their activations.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax.models
      >>> model = lcjax.models.MLPMixer.from_preset("S/16", num_classes=10)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
      (1, 10)

    References: Tolstikhin et al. 2021, arXiv 2105.01601, figure 1 and table 1.
    """

    num_classes: int | None
    patch_size: int
    depth: int
    width: int
    token_hidden: int
    channel_hidden: int
    activation: Callable[[jax.Array], jax.Array] = exact_gelu
    dropout: float = 0.0
    dtype: Any = None
    remat: bool = False

    @classmethod
    def from_preset(cls, preset: str, *, num_classes: int | None, **fields: Any) -> Self:
        """Returns the published size S, B or L at any patch size: "B/16".

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
          ValueError: images with other axes, or a patch size that does not divide their edges.
        """
        x = PatchEmbedding(self.width, self.patch_size, self.dtype, name="patches")(images)
        for i in range(self.depth):
            block = MixerBlock(
                token_hidden=self.token_hidden,
                channel_hidden=self.channel_hidden,
                activation=self.activation,
                dropout=self.dropout,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = apply_block(block, x, deterministic=deterministic, remat=self.remat)
        x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x).mean(axis=-2)
        if self.num_classes is not None:
            x = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        return x.astype(jnp.float32)
