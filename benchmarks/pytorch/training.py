"""Training in PyTorch with the images, batches, loss and schedule of `train.image`."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from benchmarks.pytorch.method import (
    adam_rounding,
    adamw,
    fuse,
    learning_rate,
    penalty,
    swap_in,
)
from benchmarks.pytorch.networks import build, load
from train.tasks.image.config import ImageConfig


class Training:
    """The published method on a task's images, as a plain PyTorch loop.

    Attributes:
      network: with PReLUs at the chosen sites.
      swapped: these PReLUs, in forward order.
      step: steps taken.
    """

    def __init__(
        self,
        config: ImageConfig,
        data: Any,
        params: Any,
        sites: list[str],
        steps: int,
        *,
        dtype: torch.dtype = torch.float32,
        fused: bool | None = None,
        compiled: bool = False,
        as_optax: bool = False,
    ):
        """Prepares a run.

        Args:
          config: of the run; without augmentation, dropout or clipping.
          data: `train.data.images.dataset.ImageData` in memory.
          params: initial ones, of lcjax.
          sites: paths of the chosen sites, as lcjax names them.
          steps: of the whole run, for the schedule.
          dtype: of weights and computation.
          fused: whether one kernel updates all weights; None is PyTorch's default.
          compiled: whether to apply `torch.compile` to the loss.
          as_optax: whether to round Adam's corrections as optax does; see `adam_rounding`.
        """
        self.network = build(config.model, data.image_shape, data.num_classes)
        self.swapped = swap_in(self.network, [site.replace("/", ".") for site in sites])
        load(self.network, params)
        self.network.to(dtype)
        self.images = torch.from_numpy(data.train.images)
        self.labels = torch.from_numpy(data.train.labels).long()
        self.mean, self.std = (torch.tensor(each, dtype=dtype) for each in (data.mean, data.std))
        self.step, self._steps, self._config, self._as_optax = 0, steps, config, as_optax
        self._adamw = adamw(self.network, config.optimizer, fused=fused)
        self._loss: Callable[..., Any] = torch.compile(self.loss) if compiled else self.loss

    def logits(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Returns a network's logits of uint8 images."""
        return network((images.to(self.mean.dtype) / 255 - self.mean) / self.std)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the mean cross entropy of a batch, and `λ Σ (1 − α)²`."""
        linearity = self._config.penalty.strength * penalty(self.swapped)
        return F.cross_entropy(self.logits(self.network, images), labels) + linearity

    def take(self, batches: np.ndarray) -> list[torch.Tensor]:
        """Trains on batches of indices (steps, batch); returns the loss before each step."""
        losses = []
        for chosen in torch.from_numpy(batches):
            rate = learning_rate(self._config.optimizer, self._steps, self.step)
            if self._as_optax:
                rate *= adam_rounding(self.step)
            for group in self._adamw.param_groups:
                group["lr"] = rate
            loss = self._loss(self.images[chosen], self.labels[chosen])
            self._adamw.zero_grad()
            loss.backward()
            self._adamw.step()
            self.step += 1
            losses.append(loss.detach())
        return losses

    def slopes(self) -> list[float]:
        """Returns the slopes, in forward order."""
        return [each.weight.item() for each in self.swapped]

    def compact(self, max_gap: float) -> tuple[nn.Module, list[str]]:
        """Returns the network with sites fused, and their paths as lcjax names them."""
        network = copy.deepcopy(self.network)
        return network, [site.replace(".", "/") for site in fuse(network, max_gap)]


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    """Returns a network's tensors by name, as NumPy arrays."""
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}
