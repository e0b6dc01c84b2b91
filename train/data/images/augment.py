"""Augmentation and normalization of uint8 images on the device, inside the jitted step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def normalize(
    images: jax.Array,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Returns uint8 images as floats of mean 0 and deviation 1 per channel.

    Args:
      images: uint8 (batch, height, width, channels).
      mean: per channel, of images scaled to [0, 1].
      std: per channel, likewise.
      dtype: of the result; the arithmetic is in float32.
    """
    shift, scale = (jnp.asarray(each, jnp.float32).reshape(1, 1, 1, -1) for each in (mean, std))
    return ((images.astype(jnp.float32) / 255 - shift) / scale).astype(dtype)


def augment(
    key: jax.Array, images: jax.Array, *, crop_padding: int = 0, flip: bool = False
) -> jax.Array:
    """Crops each image at random after zero padding, and mirrors half of the images.

    Args:
      key: a JAX random key.
      images: (batch, height, width, channels), of any dtype, which is kept.
      crop_padding: pixels of padding on every side; 0 for no crop.
      flip: whether to mirror left and right with probability 1/2.
    """
    crop_key, flip_key = jax.random.split(key)
    if crop_padding:
        images = _random_crop(crop_key, images, crop_padding)
    if flip:
        chosen = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(chosen, images[:, :, ::-1], images)
    return images


def _random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    batch, height, width, channels = images.shape
    edge = (padding, padding)
    padded = jnp.pad(images, ((0, 0), edge, edge, (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], jnp.int32(0))
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, corners)
