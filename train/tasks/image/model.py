"""Image models: one frozen dataclass per family, whose fields are flags."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
from tyro.conf import Suppress

from lcjax.models import MLP, MLPMixer, ViT
from train.config.old_runs import renamed
from train.models.base import WIDEST, ModelConfig
from train.validation import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig(ModelConfig):
    """A multilayer perceptron on flattened images."""

    kind: Suppress[Literal["mlp"]] = "mlp"
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    norm: Literal["batch"] | None = None
    """Normalization after every activation."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "hidden", lambda widths: all(1 <= w <= WIDEST for w in widths), "positive")

    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for a number of classes."""
        return MLP(features=(*self.hidden, num_classes), **self.module_fields("norm"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixerConfig(ModelConfig):
    """An MLP-Mixer."""

    kind: Suppress[Literal["mixer"]] = "mixer"
    patch_size: int
    """Edge of a patch in pixels."""
    depth: int
    """Blocks."""
    width: int
    """Channels per token."""
    token_hidden: int
    """Hidden width of the MLPs across tokens."""
    channel_hidden: int
    """Hidden width of the MLPs across channels."""

    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for a number of classes."""
        sizes = ("patch_size", "depth", "width", "token_hidden", "channel_hidden")
        return MLPMixer(num_classes=num_classes, **self.module_fields(*sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """A Vision Transformer."""

    kind: Suppress[Literal["vit"]] = "vit"
    patch_size: int
    """Edge of a patch in pixels."""
    depth: int
    """Blocks."""
    width: int
    """Channels per token."""
    num_heads: int
    """Attention heads; must divide the width."""
    mlp_hidden: int
    """Hidden width of the MLPs."""
    glu: bool = False
    """Gated MLPs: SwiGLU if the activation is silu."""
    pool: Literal["token", "mean"] = "token"
    """Input of the head: a class token, or the mean over patches."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        expected = f"a divisor of width {self.width}"
        require(self, "num_heads", lambda heads: self.width % heads == 0, expected)

    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for a number of classes."""
        sizes = ("patch_size", "depth", "width", "num_heads", "mlp_hidden", "pool")
        return ViT(num_classes=num_classes, gated=self.glu, **self.module_fields(*sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedConfig(ModelConfig):
    """A Vision Transformer or MLP-Mixer of a published size."""

    kind: Suppress[Literal["published"]] = "published"
    family: Literal["vit", "mixer"]
    """Architecture."""
    size: str
    """Published size and patch edge: Ti/16 (ViT only), S/16, B/16 or L/16."""

    def build(self, num_classes: int) -> nn.Module:
        """Returns the module for a number of classes."""
        family = {"vit": ViT, "mixer": MLPMixer}[self.family]
        return family.from_preset(self.size, num_classes=num_classes, **self.module_fields())


AnyModel = MLPConfig | MixerConfig | ViTConfig | PublishedConfig
_KINDS = {"mlp": MLPConfig, "mixer": MixerConfig, "vit": ViTConfig, "published": PublishedConfig}


def model_from_json(fields: dict[str, Any]) -> AnyModel:
    """Returns the model config of these fields, from `train.config.base.as_json`.

    Raises:
      ConfigError: if a value is out of range.
      KeyError, TypeError: if the fields are not those of a model.
    """
    config = _KINDS[fields["kind"]](**renamed(fields, "gated", "glu"))
    config.check()
    return config
