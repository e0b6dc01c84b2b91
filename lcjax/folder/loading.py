"""Loads a compact folder, or one that can be made compact, into a network of lcjax."""

from pathlib import Path
from typing import Any

import flax.linen as nn

from lcjax.folder.storage.model_folder import read_model_folder
from lcjax.folder.weights import FolderWeights


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a network and its variables from a folder that `collapse_model` wrote or reads.

    The network has neither a pooler nor a head of classes: BERT returns the last hidden state of
    every token, a decoder logits. All of it is in memory, float32.

    Args:
      path: of the folder.

    Returns:
      `(model, variables)`, for `model.apply(variables, tokens, mask)`.

    Raises:
      FileNotFoundError: no such folder.
      WeightsError: as of `collapse_model`; forms that are damaged or of another version.

    Example:
      >>> import jax.numpy as jnp, lcjax
      >>> model, variables = lcjax.folder.load_model("Llama-3.2-1B-small")  # doctest: +SKIP
      >>> model.apply(variables, jnp.zeros((1, 8), jnp.int32)).shape  # doctest: +SKIP
      (1, 8, 128256)
    """
    weights = FolderWeights(read_model_folder(Path(path).expanduser()))
    params = {module: weights.params(module) for module in weights.modules}
    return weights.family.model, {"params": params}
