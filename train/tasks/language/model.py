"""Decoders: a new one, or a pretrained one."""

import dataclasses
from typing import Any, Literal

import jax
from tyro.conf import Suppress

from lcjax.interop import load_safetensors
from lcjax.models import GPT2
from train.models.base import ModelConfig
from train.models.pretrained import FromWeights
from train.tasks.language.objective import LanguageModel
from train.validation import ConfigError, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """A new decoder with the architecture of GPT-2."""

    kind: Suppress[Literal["decoder"]] = "decoder"
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
    context: int
    """Context length in tokens."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        expected = f"a divisor of width {self.width}"
        require(self, "num_heads", lambda heads: self.width % heads == 0, expected)

    def build(self, num_classes: int) -> GPT2:
        """Returns the module for a vocabulary of this size."""
        sizes = ("depth", "width", "num_heads", "mlp_hidden")
        return GPT2(
            vocab_size=num_classes,
            max_length=self.context,
            gated=self.glu,
            **self.module_fields(*sizes),
        )

    def variables(self, model: LanguageModel, key: jax.Array) -> Any:
        """Returns new variables."""
        return model.init(key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedDecoderConfig(FromWeights):
    """Pretrained GPT-2, or another decoder of its architecture."""

    context: int
    """Tokens per window; at most the model's context length."""

    def build(self, num_classes: int) -> GPT2:
        """Returns the module; its vocabulary must have at least this size.

        Raises:
          ConfigError: if the weights are of another architecture or have a smaller vocabulary.
          FileNotFoundError: if the weights do not exist.
        """
        module = self.described(GPT2)
        if num_classes > module.vocab_size:
            raise ConfigError(
                f"{self.folder()}: tokenizer.json has {num_classes:,} tokens but the model embeds "
                f"{module.vocab_size:,}; expected the model's own tokenizer."
            )
        if self.context > module.max_length:
            raise ConfigError(
                f"--context is {self.context}; expected at most {module.max_length}, the context "
                f"length of {self.pretrained}."
            )
        return module

    def variables(self, model: LanguageModel, key: jax.Array) -> Any:
        """Returns the pretrained variables.

        Raises:
          ValueError: if weights are missing or of another architecture.
        """
        return load_safetensors(self.folder(), self.described(GPT2))


AnyDecoder = DecoderConfig | PretrainedDecoderConfig
