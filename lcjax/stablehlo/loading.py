"""Runs models that `lcjax.export` wrote, with JAX alone and no model code."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax._messages import printable
from lcjax.errors import CheckpointError
from lcjax.io.checkpoint import restore
from lcjax.stablehlo.custom_calls import unknown_calls
from lcjax.stablehlo.format import (
    ABOUT,
    FORMAT,
    PROGRAM,
    WEIGHTS,
    WEIGHTS_IN,
    Weights,
    require_flatbuffers,
)
from lcjax.validation.json_files import kind_of, read_bounded, read_json

_LARGEST = 2**31  # bytes; jax.export serializes no larger program
_RUNS_ON = {"gpu": {"cuda", "rocm"}}  # jax.export's names for the platform of a device


class ExportedModel:
    """A program that `load_exported` read; `model(*inputs)` runs it, compiled once for each shape.

    Attributes:
      platforms: the platforms that can run it, such as `("cpu", "cuda", "tpu")`.
      inputs: shape and dtype of each input, such as `(batch, 28, 28, 1) float32`, for any batch.

    Example:
      >>> import tempfile, jax.numpy as jnp, lcjax
      >>> path = tempfile.mkdtemp() + "/program"
      >>> lcjax.export(lambda p, x: x @ p, jnp.ones((4, 3)), [jnp.ones((1, 4))], path)
      >>> lcjax.load_exported(path).inputs
      ('(batch, 4) float32',)
    """

    def __init__(self, path: Path, program: jax.export.Exported, weights: tuple[Any, ...]):
        self.platforms = tuple(program.platforms)
        self._path, self._weights = path, weights
        self._in_avals = program.in_avals[len(jax.tree.leaves(weights)) :]
        self._in_tree = jax.tree.structure(
            jax.tree.unflatten(program.in_tree, program.in_avals)[0][len(weights) :]
        )
        self.inputs = tuple(f"({_dims(aval)}) {aval.dtype.name}" for aval in self._in_avals)
        self._run = jax.jit(program.call)

    def __repr__(self) -> str:
        """Returns the path of the model, its inputs and its platforms."""
        return (
            f"ExportedModel({str(self._path)!r}, inputs={self.inputs}, platforms={self.platforms})"
        )

    def __call__(self, *inputs: Any) -> Any:
        """Returns the model's outputs.

        Args:
          *inputs: arrays of the shapes and dtypes in `inputs`, all with one batch size.

        Raises:
          ValueError: inputs of another structure, shape or dtype, or a device of another platform.
        """
        self._check(inputs)
        return self._run(*self._weights, *inputs)

    def _check(self, inputs: Sequence[Any]) -> None:
        leaves, tree = jax.tree.flatten(tuple(inputs))
        if tree != self._in_tree:
            raise ValueError(
                f"{self._path}: got inputs {tree}, expected {self._in_tree} of "
                f"{', '.join(self.inputs)}."
            )
        leaves = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in leaves]
        batch = leaves[0].shape[:1]
        for i, (leaf, aval) in enumerate(zip(leaves, self._in_avals, strict=True)):
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            given = f"{tuple(leaf.shape)} {dtype.name}"
            same = leaf.shape[:1] == batch and leaf.shape[1:] == aval.shape[1:]
            if not same or 0 in leaf.shape or not batch or dtype != aval.dtype:
                also = f" with the batch size of input 0, {batch[0]}" if i and batch else ""
                if jax.dtypes.canonicalize_dtype(aval.dtype) != aval.dtype:
                    also += "; the model computes in 64 bits: set jax_enable_x64"
                raise ValueError(
                    f"{self._path}, input {i}: got {given}, expected {self.inputs[i]}{also}."
                )
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return  # the caller's jit chooses the device
        placed = [one for one in leaves if isinstance(one, jax.Array) and one.committed]
        platform = next(iter((placed or [jnp.zeros(())])[0].devices())).platform
        if not _RUNS_ON.get(platform, {platform}) & set(self.platforms):
            raise ValueError(
                f"{self._path}: got inputs on {platform}, expected one of "
                f"{', '.join(self.platforms)}. Add {platform!r} to platforms= and export the model "
                "again, or move the inputs."
            )


def load_exported(
    path: str | os.PathLike[str], *, custom_calls: Sequence[str] = ()
) -> ExportedModel:
    """Returns the model that `export` wrote; needs no model code.

    A program is code: run it only if you trust its author. The checksum detects damage, not
    tampering. Programs with custom calls other than known linear algebra are refused; the rest can
    still use unlimited memory and time.

    Args:
      path: the directory that `export` created.
      custom_calls: targets of further custom calls that you trust, such as "tpu_custom_call" for a
        model with Pallas kernels.

    Raises:
      FileNotFoundError: path does not exist.
      CheckpointError: the directory was not written by `export`, is damaged, is for several
        devices, or has unknown custom calls.
      ImportError: flatbuffers is missing, which jax.export needs: `pip install 'lcjax[export]'`.

    Example:
      >>> import tempfile, jax.numpy as jnp, lcjax
      >>> path = tempfile.mkdtemp() + "/program"
      >>> lcjax.export(lambda p, x: x @ p, jnp.ones((4, 3)), [jnp.ones((1, 4))], path)
      >>> lcjax.load_exported(path)(jnp.ones((5, 4))).shape
      (5, 3)
    """
    target = Path(path).expanduser().absolute()
    if not target.exists():
        raise FileNotFoundError(f"{target}: no such exported model; this path does not exist.")
    if not (target / ABOUT).exists() or not (target / PROGRAM).exists():
        raise CheckpointError(
            f"{target} is not an exported model: expected {PROGRAM} and {ABOUT} in it. Give a "
            "directory that lcjax.export created."
        )
    crc32, weights = _about(target)
    serialized = read_bounded(target / PROGRAM, largest=_LARGEST, error=CheckpointError)
    if zlib.crc32(serialized) != crc32:
        raise CheckpointError(
            f"{target} is damaged: the checksum of {PROGRAM} differs. Export the model again."
        )
    require_flatbuffers()
    program = _program(target, serialized, custom_calls)
    external = (restore(target / WEIGHTS),) if weights == "external" else ()
    try:
        return ExportedModel(target, program, external)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{target} is damaged: expected a program whose arguments are weights and inputs. "
            "Export the model again."
        ) from error


def _about(target: Path) -> tuple[int, Weights]:
    """Returns the checksum of the program and the place of its weights."""
    try:
        about = read_json(target / ABOUT)
    except ValueError as error:
        raise _damaged(target, str(error)) from error
    for key, kind in (("format", int), ("lcjax", str), ("weights", str), ("crc32", int)):
        if type(about.get(key)) is not kind:
            got = kind_of(about[key]) if key in about else "nothing"
            raise _damaged(target, f"{key}: got {got}, expected {kind.__name__}")
    weights = WEIGHTS_IN.get(about["format"])
    if weights is None:
        raise CheckpointError(
            f"{target}: got format {about['format']}, expected at most {FORMAT}; install lcjax "
            f"{about['lcjax']!r:.40}, which wrote it, or call jax.export.deserialize."
        )
    if about["weights"] not in weights:
        expected = " or ".join(map(repr, weights))
        raise _damaged(target, f"weights: got {about['weights']!r:.40}, expected {expected}")
    return about["crc32"], weights[about["weights"]]


def _damaged(target: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{target} is damaged: {ABOUT}: {reason}. Export the model again.")


def _program(target: Path, serialized: bytes, custom_calls: Sequence[str]) -> jax.export.Exported:
    """Returns a program for one device, without unknown custom calls."""
    try:
        program = jax.export.deserialize(bytearray(serialized))
        unknown = unknown_calls(program, custom_calls)
    except Exception as error:  # from flatbuffers, MLIR or JAX
        raise CheckpointError(
            f"{target} is damaged: this JAX cannot read {PROGRAM} "
            f"({printable(error, longest=200)}). Export the model again."
        ) from error
    if unknown:
        names = ", ".join(printable(name, longest=60) for name in unknown[:5])
        raise CheckpointError(
            f"{target}: got custom calls of {names}, expected only known linear algebra. If you "
            "trust the program, name them in custom_calls=."
        )
    if program.nr_devices != 1:
        raise CheckpointError(
            f"{target}: got a program for {program.nr_devices} devices, expected 1. Export the "
            "model again with lcjax.export."
        )
    return program


def _dims(aval: Any) -> str:
    return ", ".join(map(str, aval.shape)) + ("," if len(aval.shape) == 1 else "")
