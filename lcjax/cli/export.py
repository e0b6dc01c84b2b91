"""`lcjax export`: exports the model of a checkpoint as a StableHLO program."""

import argparse
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lcjax.cli.model_spec import check_all_used, model_from_spec, takes_tokens
from lcjax.io.checkpoint import read_metadata, restore
from lcjax.models.from_metadata import model_from_metadata
from lcjax.stablehlo.exporting import export


def export_command(options: argparse.Namespace) -> str:
    """Exports the model that the options describe and returns a summary.

    Raises:
      ValueError: an unknown model or input shape; others as of `restore` and `export`.
    """
    variables = restore(options.checkpoint)
    shapes = options.input_shape
    if options.model is None:
        model, described = model_from_metadata(read_metadata(options.checkpoint))
        shapes = shapes or described
    else:
        model = model_from_spec(options.model, variables)
    if not shapes:
        raise ValueError("input shape: not in the checkpoint's metadata; give --input-shape.")
    default = "int32" if takes_tokens(model) else "float32"
    inputs = [
        jax.ShapeDtypeStruct((1, *shape), np.dtype(dtype or default)) for shape, dtype in shapes
    ]
    apply_fn: Any = model
    if isinstance(model, nn.Module):
        variables = variables if "params" in variables else {"params": variables}
        check_all_used(model, variables, inputs)
        apply_fn = model.apply
    platforms = options.platforms.split(",")
    export(
        apply_fn, variables, inputs, options.target, platforms=platforms, weights=options.weights
    )
    return f"written to {options.target}, for {', '.join(platforms)}"
