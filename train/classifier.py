"""Image classification: the loss of a training step, and accuracy over a split."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train.augment import augment, normalise
from train.data import batches


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A module that classifies uint8 images, with what is done to them before it.

    Attributes:
      module: maps normalised images to logits.
      mean: per channel, of images scaled to [0, 1].
      std: per channel, likewise.
      crop_padding: of random crops in training, in pixels.
      flip: whether images are mirrored at random in training.
    """

    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False

    def logits(self, variables: Any, images: jax.Array) -> Any:
        """Returns logits (batch, classes) of uint8 images (batch, height, width, channels)."""
        return self.module.apply(variables, normalise(images, self.mean, self.std))

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> Any:
        """Returns new variables for images of this shape."""
        return jax.jit(self.module.init)(key, jnp.zeros((1, *image_shape)))

    def forward(self, params: Any, stats: Any, images: jax.Array, key: jax.Array) -> Any:
        """Returns what training sees of uint8 images: (images augmented, logits, new stats)."""
        augment_key, dropout_key = jax.random.split(key)
        images = augment(augment_key, images, crop_padding=self.crop_padding, flip=self.flip)
        logits, stats = self.module.apply(
            {"params": params, **stats},
            normalise(images, self.mean, self.std),
            deterministic=False,
            rngs={"dropout": dropout_key},
            mutable=list(stats),
        )
        return images, logits, stats

    def loss(self, params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        """Returns the mean cross entropy of a batch, and (new stats, metrics); see `train.loop`."""
        images, labels = batch
        _, logits, stats = self.forward(params, stats, images, key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (stats, {"train/accuracy": (logits.argmax(-1) == labels).mean()})

    def evaluator(self, batch_size: int) -> Callable[[Any, Any], dict[str, float]]:
        """Returns `evaluate(variables, split)`: mean loss and accuracy, 0 to 1, over a split."""

        @jax.jit
        def totals(variables: Any, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
            logits, held = self.logits(variables, images), labels >= 0
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            right = logits.argmax(-1) == labels
            return {"loss": (losses * held).sum(), "accuracy": right.sum(), "images": held.sum()}

        def evaluate(variables: Any, split: Any) -> dict[str, float]:
            parts = [totals(variables, *batch) for batch in batches(split, batch_size)]
            sums = jax.tree.map(lambda *values: float(sum(values)), *jax.device_get(parts))
            return {name: sums[name] / sums["images"] for name in ("accuracy", "loss")}

        return evaluate
