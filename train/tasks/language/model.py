"""Which decoder a run on running text builds: a new one, or a pretrained one."""

import dataclasses
from typing import Any, Literal

import jax
from tyro.conf import Suppress

from lcjax.interop import load_safetensors
from lcjax.models import GPT2
from train.models.architecture import ModelConfig
from train.models.pretrained import FromWeights
from train.tasks.language.objective import LanguageModel
from train.validation import ConfigError, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """A new decoder of GPT-2's shape."""

    kind: Suppress[Literal["decoder"]] = "decoder"
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
    context: int
    """Most tokens that the model reads."""

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        super().check()
        wanted = f"a divisor of width {self.width}"
        require(self, "num_heads", lambda heads: self.width % heads == 0, wanted)

    def build(self, num_classes: int) -> GPT2:
        """Returns the module for a vocabulary of this size."""
        sizes = ("depth", "width", "num_heads", "mlp_hidden", "gated")
        return GPT2(vocab_size=num_classes, max_length=self.context, **self._fields(*sizes))

    def variables(self, model: LanguageModel, key: jax.Array) -> Any:
        """Returns new variables."""
        return model.init(key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedDecoderConfig(FromWeights):
    """GPT-2 as it was published, or another decoder of its architecture."""

    context: int
    """Tokens of a window; at most as many as the model reads."""

    def build(self, num_classes: int) -> GPT2:
        """Returns the module, which must be one for a vocabulary of this size.

        Raises:
          ConfigError: when the weights are of another architecture, or for fewer tokens.
          FileNotFoundError: when there are none.
        """
        module = self.described(GPT2)
        if num_classes > module.vocab_size:
            raise ConfigError(
                f"{self.folder()}: tokenizer.json numbers {num_classes:,} tokens, the model has "
                f"embeddings of {module.vocab_size:,}; wanted the model's own tokenizer."
            )
        if self.context > module.max_length:
            raise ConfigError(
                f"--context is {self.context}, but {self.pretrained} reads {module.max_length} "
                "tokens at most; wanted at most that many."
            )
        return module

    def variables(self, model: LanguageModel, key: jax.Array) -> Any:
        """Returns the pretrained variables.

        Raises:
          ValueError: when the weights are not all there, or of another architecture.
        """
        return load_safetensors(self.folder(), self.described(GPT2))


AnyDecoder = DecoderConfig | PretrainedDecoderConfig
