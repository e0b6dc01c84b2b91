"""Rotary position embedding, with the frequency scalings of long-context checkpoints."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Rope:
    """The frequencies of a rotary embedding.

    Attributes:
      theta: base of the frequencies, `theta ** (-2 i / head_width)`.
      scaling: None; "linear", which divides all frequencies by `factor`; or "llama3", which divides
        those with wavelengths over `original_length / low_factor`, keeps those with wavelengths
        under `original_length / high_factor`, and blends those between.
      factor: the divisor.
      low_factor: of "llama3".
      high_factor: of "llama3"; larger than low_factor.
      original_length: of "llama3": number of tokens of the texts before the scaling.

    Example:
      >>> Rope(100.0).frequencies(4).tolist()
      [1.0, 0.10000000149011612]

    References:
      Su et al. 2021, arXiv 2104.09864, section 3.4.2; Chen et al. 2023, arXiv 2306.15595, for
      linear scaling; Llama Team 2024, arXiv 2407.21783, for Llama 3's.
    """

    theta: float = 10_000.0
    scaling: Literal["linear", "llama3"] | None = None
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self):
        if self.scaling not in (None, "linear", "llama3"):
            raise ValueError(
                f"Rope: got scaling={self.scaling!r}, expected linear, llama3 or None."
            )
        if self.theta <= 0 or self.factor <= 0 or self.original_length <= 0:
            raise ValueError(f"Rope: got {self}, expected positive numbers.")
        if self.scaling == "llama3" and self.low_factor >= self.high_factor:
            raise ValueError(
                f"Rope: got low_factor={self.low_factor}, high_factor={self.high_factor}; expected "
                "low_factor below high_factor."
            )

    def frequencies(self, head_width: int) -> np.ndarray:
        """Returns radians per token, float32 (head_width / 2,)."""
        plain = self.theta ** -(np.arange(0, head_width, 2) / head_width)
        if self.scaling is None:
            return plain.astype(np.float32)
        if self.scaling == "linear":
            return (plain / self.factor).astype(np.float32)
        turns = self.original_length * plain / (2 * np.pi)
        kept = (turns - self.low_factor) / (self.high_factor - self.low_factor)
        kept = np.clip(kept, 0, 1)
        return (plain * (kept + (1 - kept) / self.factor)).astype(np.float32)


def rotate(x: jax.Array, positions: jax.Array, frequencies: jax.Array | np.ndarray) -> jax.Array:
    """Returns queries or keys turned by their positions, in x's dtype; computed in float32.

    Feature i turns with feature `i + head_width / 2`, the convention of Hugging Face checkpoints.

    Args:
      x: (batch, tokens, heads, head width).
      positions: integers (batch, tokens).
      frequencies: radians per token (head width / 2,).

    Example:
      >>> x = jnp.ones((1, 2, 1, 4))
      >>> rotate(x, jnp.zeros((1, 2), jnp.int32), jnp.ones(2)).tolist() == x.tolist()
      True
    """
    angles = positions[:, :, None, None].astype(jnp.float32) * frequencies[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
