"""VGG: 3x3 convolutions, then a collapsible classifier."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.models.presets import preset_fields
from lcjax.nn.mlp import NORM_EPSILON, CollapsibleMLP

_STAGES = {
    "11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "13": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
_SIZES = {depth: dict(stages=stages) for depth, stages in _STAGES.items()} | {
    f"{depth}-small": dict(stages=stages, grid=1, hidden=(4096,), classifier_norm="batch")
    for depth, stages in _STAGES.items()
}


class VGG(nn.Module):
    """VGG: stages of 3x3 convolutions and max pooling, adaptive average pooling, a classifier.

    The classifier is the `CollapsibleMLP` named `mlp`. Convolutions `conv_i` and their norms
    `norm_i` are numbered through all stages.

    Attributes:
      num_classes: width of the last Dense.
      stages: channels of every convolution, by stage.
      grid: height and width after average pooling; 7 in torchvision, 1 for a global mean.
      hidden: hidden widths of the classifier.
      norm: None, or "batch" for batch norm after every convolution.
      classifier_norm: None, or "batch" for batch norm after the classifier's activations.
      conv_bias: whether convolutions have a bias, as in torchvision.
      activation: elementwise; in the classifier, and without a slope after convolutions.
      dropout: rate, after every activation of the classifier; 0.5 as published.
      dtype: dtype of the computation; None uses the images'. Params and logits are float32.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax.models
      >>> model = lcjax.models.VGG.from_preset("11-small", num_classes=10)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
      >>> jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape
      (1, 10)

    References: Simonyan and Zisserman 2014, arXiv 1409.1556, table 1, columns A, B, D and E.
    """

    num_classes: int
    stages: Sequence[Sequence[int]]
    grid: int = 7
    hidden: Sequence[int] = (4096, 4096)
    norm: Literal["batch"] | None = None
    classifier_norm: Literal["batch"] | None = None
    conv_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0
    dtype: Any = None

    @classmethod
    def from_preset(cls, preset: str, *, num_classes: int, **fields: Any) -> Self:
        """Returns the published depth 11, 13, 16 or 19; "16-small" for small images.

        The former have torchvision's classifier, 25088-4096-4096-n on a 7x7 grid. The latter, for
        images of 32x32, have 512-4096-n with batch norm.

        Args:
          preset: the depth.
          num_classes: width of the last Dense.
          **fields: attributes that override the preset's; norm="batch" for torchvision's vgg16_bn.

        Raises:
          ValueError: unknown preset; lists the known ones.
        """
        return cls(
            num_classes=num_classes, **(preset_fields(preset, _SIZES, cls.__name__) | fields)
        )

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns logits, float32 (batch, classes), of images (batch, height, width, channels).

        Raises:
          ValueError: images with other axes or too small to be halved by every stage, or an
            unknown `norm`.
        """
        self._check(images)
        x, i = images, 0
        for stage in self.stages:
            for channels in stage:
                x = self._convolution(i, channels, x, deterministic)
                i += 1
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = adaptive_avg_pool(x, self.grid).reshape(x.shape[0], -1)
        logits = CollapsibleMLP(
            features=(*self.hidden, self.num_classes),
            activation=self.activation,
            norm=self.classifier_norm,
            dropout=self.dropout,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
            name="mlp",
        )(x, deterministic=deterministic)
        return logits.astype(jnp.float32)

    def _convolution(self, i: int, channels: int, x: jax.Array, deterministic: bool) -> jax.Array:
        """Returns x after convolution i, its norm and its activation."""
        x = nn.Conv(
            channels,
            (3, 3),
            use_bias=self.conv_bias,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
            name=f"conv_{i}",
        )(x)
        if self.norm == "batch":
            x = nn.BatchNorm(
                use_running_average=deterministic,
                momentum=0.9,
                epsilon=NORM_EPSILON,
                dtype=self.dtype,
                name=f"norm_{i}",
            )(x)
        return self.activation(x)

    def _check(self, images: jax.Array) -> None:
        least = 2 ** len(self.stages)
        if images.ndim != 4 or min(images.shape[1:3]) < least:
            raise ValueError(
                f"images: got shape {images.shape}, expected (batch, height, width, channels) with "
                f"at least {least}x{least} pixels, which {len(self.stages)} stages halve."
            )
        if self.norm not in (None, "batch"):
            raise ValueError(f"VGG: got norm={self.norm!r}, expected None or 'batch'.")


def adaptive_avg_pool(x: jax.Array, edge: int) -> jax.Array:
    """Returns means over the cells of a square grid, (batch, edge, edge, channels).

    As PyTorch's AdaptiveAvgPool2d: cells overlap by up to a pixel if the edge does not divide the
    height or width, and repeat pixels if it is larger.

    Args:
      x: (batch, height, width, channels).
      edge: number of rows and columns of the grid.

    Example:
      >>> adaptive_avg_pool(jnp.arange(4.0).reshape(1, 2, 2, 1), 1).item()
      1.5
    """
    if x.shape[1:3] == (edge, edge):
        return x

    def cells(size: int) -> jax.Array:
        weights = np.zeros((edge, size))
        for i in range(edge):
            start, end = i * size // edge, -(-(i + 1) * size // edge)
            weights[i, start:end] = 1 / (end - start)
        return jnp.asarray(weights, x.dtype)

    rows, columns = cells(x.shape[1]), cells(x.shape[2])
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns, precision=highest)
