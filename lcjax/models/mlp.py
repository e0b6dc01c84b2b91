"""A multilayer perceptron on flattened images."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.nn.mlp import CollapsibleMLP


class MLP(nn.Module):
    """Flattens images and applies one `CollapsibleMLP`, named `mlp`.

    Attributes:
      features: width of each Dense; the last is the number of classes.
      activation: elementwise; after every Dense except the last.
      norm: None, or "batch" for batch norm after every activation.
      dropout: rate, after every activation.
      dtype: dtype of the computation; None uses the images'. Params and logits are float32.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax.models
      >>> images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
      >>> model = lcjax.models.MLP((64, 10))
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
      (1, 10)
    """

    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    norm: Literal["batch"] | None = None
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns logits, float32 (batch, classes), of images (batch, ...)."""
        logits = CollapsibleMLP(
            features=self.features,
            activation=self.activation,
            norm=self.norm,
            dropout=self.dropout,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
            name="mlp",
        )(images.reshape(images.shape[0], -1), deterministic=deterministic)
        return logits.astype(jnp.float32)
