"""Decoders: a new one, or a pretrained one."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from tyro.conf import Suppress

from lcjax.folder import load_model
from lcjax.interop import load_safetensors, model_from_config
from lcjax.models import GPT2, Decoder
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
        sizes = ("depth", "width", "num_heads", "mlp_hidden", "glu")
        return GPT2(
            vocab_size=num_classes,
            max_length=self.context,
            **self.module_fields(*sizes),
        )

    def variables(self, model: LanguageModel, key: jax.Array) -> Any:
        """Returns new variables."""
        return model.init(key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedDecoderConfig(FromWeights):
    """Pretrained GPT-2, or a decoder of the Llama family; deep, or from lcjax collapse-model."""

    context: int
    """Tokens per window; at most the model's context length."""

    def folder(self) -> Path:
        """Returns the directory of the weights.

        Raises:
          ConfigError: none is given.
          FileNotFoundError: if there is no such folder, package or repository.
        """
        require(self, "pretrained", bool, "a model folder, or another source of weights")
        return super().folder()

    def build(self, num_classes: int) -> GPT2 | Decoder:
        """Returns the module; its vocabulary must have at least this size.

        Raises:
          ConfigError: if the weights are of another architecture or have a smaller vocabulary.
          FileNotFoundError: if the weights do not exist.
        """
        module = self._module()
        rows = (module.config if isinstance(module, Decoder) else module).vocab_size
        if num_classes > rows:
            raise ConfigError(
                f"{self.folder()}: tokenizer.json has {num_classes:,} tokens but the model embeds "
                f"{rows:,}; expected the model's own tokenizer."
            )
        if self.context > (longest := LanguageModel(module).longest):
            raise ConfigError(
                f"--context is {self.context}; expected at most {longest}, the context length of "
                f"{self.pretrained}."
            )
        return module

    def variables(self, model: LanguageModel, key: jax.Array) -> Any:
        """Returns the pretrained variables.

        Raises:
          ValueError: if weights are missing or of another architecture.
        """
        if isinstance(model.module, Decoder):
            return load_model(self.folder())[1]
        return load_safetensors(self.folder(), self.described(GPT2))

    def _module(self) -> GPT2 | Decoder:
        module = model_from_config(self.folder())
        if not isinstance(module, Decoder):
            return self.described(GPT2)
        if self.dropout or self.activation is not None:
            raise ConfigError(
                f"--pretrained is {self.pretrained}, a Decoder, which has no dropout and its own "
                "activation; expected --dropout 0 and no --activation, as in the preset folder."
            )
        return module.clone(dtype=jnp.dtype(self.dtype))


AnyDecoder = DecoderConfig | PretrainedDecoderConfig
