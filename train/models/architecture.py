"""Which model a run builds: one frozen dataclass a family, whose fields are flags."""

import abc
import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from tyro.conf import Suppress

from lcjax.models import MLP, MLPMixer, ViT
from lcjax.models.activations import ACTIVATIONS as PRETRAINED_ACTIVATIONS
from train.validation import require

ACTIVATIONS = {name: PRETRAINED_ACTIVATIONS[name] for name in ("relu", "gelu", "silu", "tanh")}

_WIDEST, _DEEPEST = 2**24, 2**10


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(abc.ABC):
    """What every model has."""

    activation: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    """Activation that slopes bend toward the identity."""
    dropout: float = 0.0
    """Dropout rate."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Computation dtype; params stay float32."""

    def _fields(self, *names: str) -> dict[str, Any]:
        shared = dict(
            activation=ACTIVATIONS[self.activation],
            dropout=self.dropout,
            dtype=jnp.dtype(self.dtype),
        )
        return shared | {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        require(self, "dropout", lambda value: 0 <= value < 1, "in [0, 1)")
        for field in dataclasses.fields(self):
            if field.type is int:
                most = _DEEPEST if field.name == "depth" else _WIDEST
                wanted = f"at least 1, at most {most:,}"
                require(self, field.name, lambda value, most=most: 1 <= value <= most, wanted)

    @abc.abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for this many classes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig(ModelConfig):
    """A multilayer perceptron on flattened images."""

    kind: Suppress[Literal["mlp"]] = "mlp"
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    norm: Literal["batch"] | None = None
    """Normalisation after every activation."""

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        super().check()
        require(self, "hidden", lambda widths: all(1 <= w <= _WIDEST for w in widths), "positive")

    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for this many classes."""
        return MLP(features=(*self.hidden, num_classes), **self._fields("norm"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixerConfig(ModelConfig):
    """An MLP-Mixer."""

    kind: Suppress[Literal["mixer"]] = "mixer"
    patch_size: int
    """Edge of a patch in pixels."""
    depth: int
    """Blocks."""
    width: int
    """Channels of a token."""
    token_hidden: int
    """Hidden width of the MLPs across tokens."""
    channel_hidden: int
    """Hidden width of the MLPs across channels."""

    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for this many classes."""
        sizes = ("patch_size", "depth", "width", "token_hidden", "channel_hidden")
        return MLPMixer(num_classes=num_classes, **self._fields(*sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """A Vision Transformer."""

    kind: Suppress[Literal["vit"]] = "vit"
    patch_size: int
    """Edge of a patch in pixels."""
    depth: int
    """Blocks."""
    width: int
    """Channels of a token."""
    num_heads: int
    """Attention heads; divides the width."""
    mlp_hidden: int
    """Hidden width of the MLPs."""
    gated: bool = False
    """Gated MLPs: SwiGLU where the activation is silu."""
    pool: Literal["token", "mean"] = "token"
    """What the head reads: a class token, or the mean over patches."""

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        super().check()
        wanted = f"a divisor of width {self.width}"
        require(self, "num_heads", lambda heads: self.width % heads == 0, wanted)

    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for this many classes."""
        sizes = ("patch_size", "depth", "width", "num_heads", "mlp_hidden", "gated", "pool")
        return ViT(num_classes=num_classes, **self._fields(*sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedConfig(ModelConfig):
    """A Vision Transformer or MLP-Mixer of a published size."""

    kind: Suppress[Literal["published"]] = "published"
    family: Literal["vit", "mixer"]
    """Architecture."""
    size: str
    """Published size and edge of a patch: Ti/16 (ViT only), S/16, B/16 or L/16."""

    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for this many classes."""
        family = {"vit": ViT, "mixer": MLPMixer}[self.family]
        return family.from_preset(self.size, num_classes=num_classes, **self._fields())


AnyModel = MLPConfig | MixerConfig | ViTConfig | PublishedConfig
_KINDS = {"mlp": MLPConfig, "mixer": MixerConfig, "vit": ViTConfig, "published": PublishedConfig}


def model_from_json(fields: dict[str, Any]) -> AnyModel:
    """Returns the model config that `train.config.base.as_json` made these fields of.

    Raises:
      ConfigError: when a value is out of range.
      KeyError, TypeError: when fields are of no model.
    """
    config = _KINDS[fields["kind"]](**fields)
    config.check()
    return config
