"""Text classifiers: a pretrained encoder with a new head."""

import dataclasses
from fnmatch import fnmatchcase
from typing import Any, Literal

import jax

from lcjax.interop import load_safetensors, model_from
from lcjax.interop.safetensors_file import open_tensors
from lcjax.interop.source import find_files
from lcjax.models import Bert
from train.models.pretrained import FromWeights


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedConfig(FromWeights):
    """A pretrained encoder of the BERT family, with a new head."""

    pool: Literal["pooler", "token", "mean"] = "pooler"
    """Input of the head: the pooler's output, the first token, or the mean over tokens."""

    def build(self, num_classes: int) -> Bert:
        """Returns the module for a number of classes.

        Raises:
          ConfigError: if the weights are of another architecture.
          FileNotFoundError: if the weights do not exist.
        """
        return self.described(Bert, num_classes=num_classes, pool=self.pool)

    def variables(self, num_classes: int, key: jax.Array) -> Any:
        """Returns the pretrained variables with a new head.

        Raises:
          ValueError: if weights are missing, or of another architecture.
        """
        folder = self.folder()
        with open_tensors(find_files(folder)) as tensors:
            stored = list(tensors.stored)
        # Heads of pretraining, and an unused pooler.
        unused = ["cls.*"] if self.pool == "pooler" else ["cls.*", "*pooler.*"]
        skip = [glob for glob in unused if any(fnmatchcase(name, glob) for name in stored)]
        module = model_from(folder, num_classes=num_classes, pool=self.pool)
        return load_safetensors(folder, module, fresh="head/*", skip=skip, key=key)
