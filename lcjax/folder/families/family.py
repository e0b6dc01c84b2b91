"""A family of models: how its layers run one by one, from tensors on disk."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax.folder.families.leaves import FolderLeaves
from lcjax.nn.activations import Activation

# To what a layer adds its MLP's output: to a residual, and the sum is the layer's output ("sum");
# to the MLP's own input, before a norm ("input"); to a residual, but after a norm ("normed").
Residual = Literal["sum", "input", "normed"]


class Family(ABC):
    """The layers of the model in a folder; a subclass for each kind of model.

    Attributes:
      first: names of the MLP's layers before the activation, in params.
      last: name of its last layer.
      bypass: name of the affine map that may run next to the MLP or in its place.
      act: name of the activation.
      model: the network of lcjax, without a head of classes or a pooler.
      leaves: its leaves on disk.
      residual: see `Residual`.
      hidden_field: name of the hidden width of the MLPs in config.json.
    """

    first: ClassVar[tuple[str, ...]]
    last: ClassVar[str]
    bypass: ClassVar[str]
    act: ClassVar[str]
    model: nn.Module
    leaves: FolderLeaves
    residual: Residual
    hidden_field: ClassVar[str] = "intermediate_size"

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of layers."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of a hidden state."""

    @property
    @abstractmethod
    def hidden(self) -> int:
        """Hidden width of the MLPs."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Number of tokens of the longest text."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of rows of the embedding."""

    @property
    @abstractmethod
    def activation(self) -> Activation:
        """The activation of the MLPs."""

    @abstractmethod
    def block(self, layer: int) -> nn.Module:
        """Returns the module that runs a layer from the layer's own params.

        Layers of equal modules share compiled programs.
        """

    @abstractmethod
    def arguments(self, layer: int, real: np.ndarray) -> tuple[Any, ...]:
        """Returns what the block takes after the hidden states.

        Args:
          layer: index of the layer.
          real: which tokens are not padding, bool (texts, tokens).
        """

    @abstractmethod
    def embed(self, tokens: np.ndarray) -> jax.Array:
        """Returns the first layer's input, float32 (texts, tokens, width)."""

    def outputs(self, states: np.ndarray) -> np.ndarray:
        """Returns the model's last hidden states, float32 (n, width).

        Args:
          states: outputs of the last layer, float32 (n, width).
        """
        return states

    def hidden_units(self, mlp: Any, x: jax.Array) -> jax.Array:
        """Returns the values of the MLP's hidden units, (..., hidden).

        Args:
          mlp: params of its first layers.
          x: its input, (..., width).
        """
        highest = jax.lax.Precision.HIGHEST
        values = [
            jnp.dot(x, mlp[name]["kernel"], precision=highest)
            + mlp[name].get("bias", jnp.float32(0))
            for name in self.first
        ]
        gate = self.activation(values[0])
        return gate if len(values) == 1 else gate * values[1]

    def site(self, layer: int) -> str:
        """Returns the path of a layer's activation, as plans name it."""
        return f"block_{layer}/mlp/{self.act}"


class LanguageFamily(Family):
    """A family whose models predict the next token."""

    @abstractmethod
    def next_token_loss(self, states: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns the cross-entropy of each token's successor, in nats.

        Args:
          states: last layer's outputs, float32 (n, width).
          targets: the successors, integers (n,).
        """
