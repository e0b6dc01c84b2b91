"""The model, or the rules, by which `lcjax` reads a checkpoint of params of any function."""

import argparse
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lcjax._messages import describe
from lcjax.cli.model_spec import imported
from lcjax.errors import CheckpointError, CollapseError
from lcjax.io.file_paths import PathLike
from lcjax.io.reader import open_checkpoint
from lcjax.io.traced.contents import Contents, contents_of
from lcjax.io.traced.pairs import PairRule, pairs_source
from lcjax.io.traced.source import TracedSource, function_source

Shapes = Sequence[tuple[tuple[int, ...], str]]


def traced_source(path: PathLike, options: argparse.Namespace) -> TracedSource | None:
    """Returns a checkpoint as that of a traced function; None where the options name none.

    Args:
      path: the checkpoint.
      options: `model` with `input_shape`, or `pair`; and `params`.

    Raises:
      CheckpointError: something other than a checkpoint; leaves that differ from the model's.
      CollapseError: no site, a rule that matches nothing.
      ValueError: a model or inputs that cannot be used; options that exclude each other.
    """
    if options.model is None and not options.pair:
        if options.input_shape or options.params:
            raise ValueError("--input-shape and --params: expected --model or --pair with them.")
        return None
    contents = contents_of(open_checkpoint(path), options.params or "")
    if options.pair:
        return pairs_source(contents, [PairRule.parse(text) for text in options.pair])
    return _of_model(contents, str(options.model), options.input_shape or ())


def _of_model(contents: Contents, spec: str, shapes: Shapes) -> TracedSource:
    found = imported(spec)
    model, inputs = _described(found, spec)
    if shapes:
        inputs = [jax.ShapeDtypeStruct((1, *s), np.dtype(t or "float32")) for s, t in shapes]
    if not inputs:
        raise ValueError(
            f"model {spec}: got no inputs; give --input-shape, or a function that returns "
            "(model, *inputs)."
        )
    try:
        if _is_of_nnx(model):
            from lcjax.io.traced.modules import module_source

            return module_source(contents, _abstract(model), inputs)
        return function_source(contents, _apply(model, contents), inputs)
    except (CheckpointError, CollapseError):
        raise
    except Exception as error:  # from the model's own code
        shown = ", ".join(str(getattr(each, "shape", each)) for each in inputs)
        raise ValueError(
            f"model {spec}: running it on the checkpoint's params and inputs of shape {shown} "
            f"raised {_text(error)}. Give the model and the inputs that were trained."
        ) from error


def _described(found: Any, spec: str) -> tuple[Any, list[Any]]:
    """Returns a model, and the inputs that a function returned with it, as ShapeDtypeStructs.

    Raises:
      ValueError: something other than a model.
    """
    inputs: list[Any] = []
    if not isinstance(found, type | nn.Module) and not _is_of_nnx(found) and _takes_nothing(found):
        returned = _run(found, spec)
        found, *inputs = returned if isinstance(returned, tuple) and returned else (returned,)
    if isinstance(found, type) or not (callable(found) or isinstance(found, nn.Module)):
        raise ValueError(
            f"model {spec}: got {describe(found)}, expected a model, a function apply(params, "
            "*inputs), or a function without arguments that returns (model, *inputs); a model is "
            "a module of Flax NNX or linen, or such an apply."
        )
    return found, jax.tree.map(_shape, inputs)


def _run(factory: Any, spec: str) -> Any:
    """Returns what a function returns, with tracers for arrays, so that none is allocated."""
    returned = []

    def run() -> None:
        returned.append(factory())

    try:
        jax.eval_shape(run)
    except (Exception, SystemExit) as error:  # from the user's own code
        raise ValueError(
            f"model {spec}: calling it raised {_text(error)}. It runs under jax.eval_shape, "
            "without values; expected a function that creates the model and example inputs."
        ) from error
    return returned[0]


def _apply(model: Any, contents: Contents) -> Any:
    if not isinstance(model, nn.Module):
        return model
    if any(path[0] == "params" or path[:2] == ("model", "params") for path in contents.records):
        return model.apply
    return lambda params, *inputs: model.apply({"params": params}, *inputs)


def _takes_nothing(function: Any) -> bool:
    try:
        inspect.signature(function).bind()  # raises TypeError for what is no function, too
    except (TypeError, ValueError):
        return False
    return True


def _is_of_nnx(found: Any) -> bool:
    """Returns whether this is what `lcjax.nnx.trace` takes."""
    from flax import nnx

    owners = [found, getattr(found, "__self__", None)]
    if isinstance(found, partial):
        owners += found.args[:1]
    return any(isinstance(each, nnx.Module) for each in owners)


def _abstract(model: Any) -> Any:
    from lcjax.nnx.abstract import abstract_model

    return abstract_model(model)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).rstrip('.')}"


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf
