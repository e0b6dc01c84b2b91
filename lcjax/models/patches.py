"""Images cut into patches: the embedding, and preset names such as "B/16"."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype


class PatchEmbedding(nn.Module):
    """Maps every patch of an image to a token: a convolution whose stride is its kernel's edge.

    Attributes:
      width: of a token.
      patch_size: edge of a patch in pixels; divides the image's height and width.
      dtype: of the computation.
    """

    width: int
    patch_size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns tokens (batch, patches, width) of images (batch, height, width, channels).

        Raises:
          ValueError: when images have other axes, or patches do not tile them.
        """
        if images.ndim != 4:
            raise ValueError(
                f"images have shape {images.shape}; wanted (batch, height, width, channels)."
            )
        batch, height, width, channels = images.shape
        edge = self.patch_size
        if height % edge or width % edge:
            raise ValueError(
                f"images of {height}x{width} pixels cannot be cut into patches of {edge}x{edge}: "
                "choose a patch size that divides both edges, or resize the images."
            )
        tiles = images.reshape(batch, height // edge, edge, width // edge, edge, channels)
        patches = tiles.swapaxes(2, 3).reshape(batch, -1, edge, edge, channels)
        return _Projection(self.width, self.dtype, name="project")(patches)


class _Projection(nn.Module):
    """A dense layer over whole patches whose params are a convolution's.

    As a convolution XLA's CPU backend takes many times as long for the kernel's gradient.
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


def preset_fields(
    preset: str, sizes: Mapping[str, Mapping[str, int]], model: str
) -> dict[str, Any]:
    """Returns the fields that a preset such as "B/16" stands for: a size and a patch's edge.

    Args:
      preset: a key of `sizes`, a slash, and the patch's edge in pixels.
      sizes: fields of each size.
      model: what the error calls the model.

    Raises:
      ValueError: when the preset is not of that form or its size is unknown; lists the known.
    """
    found = re.fullmatch(r"(\w+)/([1-9]\d*)", preset)
    if not found or found[1] not in sizes:
        known = ", ".join(f"{size}/16" for size in sizes)
        raise ValueError(
            f"{model} has no preset {preset!r}; wanted one of {known}, or another patch size "
            "after the slash."
        )
    return {**sizes[found[1]], "patch_size": int(found[2])}
