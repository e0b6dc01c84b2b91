"""Image classification: the module, normalization and augmentation."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from train.data.images.augment import augment, normalize
from train.data.images.stream import batches
from train.tasks.image.model import model_from_json
from train.tasks.objective import Classifier


@dataclasses.dataclass(frozen=True)
class ImageClassifier(Classifier):
    """A module that classifies uint8 images, and its preprocessing.

    Attributes:
      module: maps normalized images to logits.
      mean: per channel, of images scaled to [0, 1].
      std: per channel, likewise.
      crop_padding: of random crops in training, in pixels.
      flip: whether images are mirrored at random in training.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> "ImageClassifier":
        """Returns the classifier of a run's checkpoint, from its metadata."""
        data = metadata["data"]
        module = model_from_json(metadata["model"]).build(data["num_classes"])
        return cls(module, tuple(data["mean"]), tuple(data["std"]))

    def logits(self, variables: Any, inputs: jax.Array) -> Any:
        """Returns logits (batch, classes) of uint8 images (batch, height, width, channels)."""
        return self.module.apply(variables, normalize(inputs, self.mean, self.std))

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> Any:
        """Returns new variables for images of this shape."""
        return jax.jit(self.module.init)(key, jnp.zeros((1, *image_shape)))

    def forward(self, params: Any, stats: Any, inputs: jax.Array, key: jax.Array) -> Any:
        """Returns (augmented images, logits, new stats) of uint8 images in training mode."""
        augment_key, dropout_key = jax.random.split(key)
        images = augment(augment_key, inputs, crop_padding=self.crop_padding, flip=self.flip)
        logits, stats = self.module.apply(
            {"params": params, **stats},
            normalize(images, self.mean, self.std),
            deterministic=False,
            rngs={"dropout": dropout_key},
            mutable=list(stats),
        )
        return images, logits, stats

    def batches(self, split: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yields a split once: images and labels; padding has label -1."""
        return batches(split, batch_size)
