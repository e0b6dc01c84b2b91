"""Fingerprints of arrays: equal for equal numbers, wherever the arrays are."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.algebra.abstract import is_abstract

# Odd multipliers that mix every bit of a word (those of xxHash), a pair for each half of the sum.
_MIXERS = ((0x9E3779B1, 0x85EBCA77), (0xC2B2AE3D, 0x27D4EB2F))
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def fingerprint(leaves: Sequence[Any]) -> str | None:
    """Returns a fingerprint of 64 bits for each array; None where there are no values.

    Sums of words modulo 2³², each mixed with its position: equal for NumPy and JAX arrays, and for
    any sharding; only the sums leave the devices. Not cryptographic.

    Args:
      leaves: arrays; traced or abstract ones give None.
    """
    if any(map(is_abstract, leaves)):
        return None
    parts = []
    for leaf in leaves:
        on_host = isinstance(leaf, np.ndarray)
        sums = _mixed(np, _words(leaf)) if on_host else _device_sums(leaf)
        parts.append(f"{leaf.dtype}{tuple(leaf.shape)}:" + "".join(f"{int(n):08x}" for n in sums))
    return " ".join(parts)


def _words(leaf: np.ndarray) -> np.ndarray:
    """Returns the bits of an array in words of at most four bytes."""
    leaf = np.ascontiguousarray(leaf, leaf.dtype.newbyteorder("=")).reshape(leaf.shape)
    word = np.dtype(_WORDS[min(leaf.dtype.itemsize, 4)])
    split = leaf.dtype.itemsize // word.itemsize
    return leaf.view(word) if split == 1 else leaf[..., None].view(word)


@jax.jit
def _device_sums(leaf: jax.Array) -> tuple[jax.Array, ...]:
    if leaf.dtype == bool:
        leaf = leaf.astype(np.uint8)
    elif jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], -1)
    word = _WORDS[min(leaf.dtype.itemsize, 4)]
    return _mixed(jnp, jax.lax.bitcast_convert_type(leaf, word))


def _mixed(xp: Any, words: Any) -> tuple[Any, ...]:
    """Returns two sums of words, each mixed with its position, modulo 2³²."""
    words = words.astype(np.uint32)
    place = xp.zeros((1,) * words.ndim, np.uint32)
    for axis, length in enumerate(words.shape):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        index = xp.arange(length, dtype=np.uint32) * np.uint32(stride)
        place = place + index.reshape([-1 if i == axis else 1 for i in range(words.ndim)])
    sums = []
    for first, second in _MIXERS:
        mixed = (words ^ (place * np.uint32(first))) * np.uint32(second)
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(first)
        sums.append((mixed ^ (mixed >> np.uint32(13))).sum(dtype=np.uint32))
    return tuple(sums)
