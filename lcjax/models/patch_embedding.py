"""Patch embedding: images to tokens."""

from typing import Any

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype


class PatchEmbedding(nn.Module):
    """Maps every patch of an image to a token: a convolution whose stride is the patch size.

    Attributes:
      width: number of features of a token.
      patch_size: height and width of a patch in pixels; must divide those of the image.
      dtype: dtype of the computation; None uses the images'.

    References:
      Dosovitskiy et al. 2020, arXiv 2010.11929, equation 1.
    """

    width: int
    patch_size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns tokens (batch, patches, width) of images (batch, height, width, channels).

        Raises:
          ValueError: images with other axes, or a patch size that does not divide their edges.
        """
        if images.ndim != 4:
            raise ValueError(
                f"images: got shape {images.shape}, expected (batch, height, width, channels)."
            )
        batch, height, width, channels = images.shape
        edge = self.patch_size
        if height % edge or width % edge:
            raise ValueError(
                f"images: got {height}x{width} pixels, expected multiples of patch_size={edge}; "
                "choose a patch size that divides both, or resize the images."
            )
        tiles = images.reshape(batch, height // edge, edge, width // edge, edge, channels)
        patches = tiles.swapaxes(2, 3).reshape(batch, -1, edge, edge, channels)
        return _Projection(self.width, self.dtype, name="project")(patches)


class _Projection(nn.Module):
    """A dense layer over whole patches, with the params of a convolution.

    XLA's CPU backend computes the kernel's gradient many times faster than for a convolution.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, patches: jax.Array) -> jax.Array:
        """Returns (batch, patches, width) of patches (batch, patches, edge, edge, channels)."""
        shape = (*patches.shape[-3:], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape[-1:])
        patches, kernel, bias = promote_dtype(patches, kernel, bias, dtype=self.dtype)
        flat = patches.reshape(*patches.shape[:2], -1)
        return flat @ kernel.reshape(-1, self.width) + bias[None, None]
