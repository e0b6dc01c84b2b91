"""Configuration that every model has."""

import abc
import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from lcjax.models.named_activations import ACTIVATIONS as PRETRAINED_ACTIVATIONS
from train.validation import require

ACTIVATIONS = {name: PRETRAINED_ACTIVATIONS[name] for name in ("relu", "gelu", "silu", "tanh")}

WIDEST, DEEPEST = 2**24, 2**10


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(abc.ABC):
    """Fields of every model."""

    activation: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    """Activation, which slopes interpolate to the identity."""
    dropout: float = 0.0
    """Dropout rate."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; params are float32."""

    def module_fields(self, *names: str) -> dict[str, Any]:
        """Returns the module's arguments: the shared ones, and fields by name."""
        shared = dict(
            activation=ACTIVATIONS[self.activation],
            dropout=self.dropout,
            dtype=jnp.dtype(self.dtype),
        )
        return shared | {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        require(self, "dropout", lambda value: 0 <= value < 1, "in [0, 1)")
        for field in dataclasses.fields(self):
            if field.type is int:
                most = DEEPEST if field.name == "depth" else WIDEST
                expected = f"at least 1, at most {most:,}"
                require(self, field.name, lambda value, most=most: 1 <= value <= most, expected)

    @abc.abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for this many classes."""
