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
from lcjax.io.checkpoint import restore
from lcjax.io.schema import CheckpointError
from lcjax.stablehlo.custom_calls import unknown_calls
from lcjax.validation.json_files import kind_of, read_bounded, read_json

PROGRAM, WEIGHTS, ABOUT = "program.jax", "weights", "export.json"  # the files of a model
FORMAT = 1
_LARGEST = 2**31  # bytes; jax.export serializes no larger program
_RUNS_ON = {"gpu": {"cuda", "rocm"}}  # what jax.export calls the platform of a device


class ExportedModel:
    """A program that `load_exported` read; `model(*inputs)` runs it, compiled once for each shape.

    Attributes:
      platforms: on which it runs.
      inputs: what it takes, as `(batch, 28, 28, 1) float32`; the batch is of any size.
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
        """Returns where the model is from, what it takes and on what it runs."""
        return (
            f"ExportedModel({str(self._path)!r}, inputs={self.inputs}, platforms={self.platforms})"
        )

    def __call__(self, *inputs: Any) -> Any:
        """Returns what the model returns for these inputs.

        Raises:
          ValueError: other inputs than those that were exported, or a platform that was not.
        """
        self._check(inputs)
        return self._run(*self._weights, *inputs)

    def _check(self, inputs: Sequence[Any]) -> None:
        leaves, tree = jax.tree.flatten(tuple(inputs))
        if tree != self._in_tree:
            raise ValueError(
                f"{self._path}: got inputs {tree}, wanted {self._in_tree}, of "
                f"{', '.join(self.inputs)}."
            )
        leaves = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in leaves]
        batch = leaves[0].shape[:1]
        for i, (leaf, aval) in enumerate(zip(leaves, self._in_avals, strict=True)):
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            given = f"{tuple(leaf.shape)} {dtype.name}"
            same = leaf.shape[:1] == batch and leaf.shape[1:] == aval.shape[1:]
            if not same or 0 in leaf.shape or not batch or dtype != aval.dtype:
                also = f", the batch that of the first, {batch[0]}" if i and batch else ""
                if jax.dtypes.canonicalize_dtype(aval.dtype) != aval.dtype:
                    also += "; the model computes in 64 bits: set jax_enable_x64"
                raise ValueError(
                    f"{self._path}: input {i} is {given}, wanted {self.inputs[i]}{also}."
                )
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return  # where it will run is for the caller's jit to say
        placed = [one for one in leaves if isinstance(one, jax.Array) and one.committed]
        platform = next(iter((placed or [jnp.zeros(())])[0].devices())).platform
        if not _RUNS_ON.get(platform, {platform}) & set(self.platforms):
            raise ValueError(
                f"{self._path}: exported for {', '.join(self.platforms)}, cannot run on {platform}."
                " Export it again with that among platforms, or run it on a device of those."
            )


def load_exported(
    path: str | os.PathLike[str], *, custom_calls: Sequence[str] = ()
) -> ExportedModel:
    """Returns the model that `export` wrote, to be called with its inputs; needs no model code.

    A program is code: run one only if you trust who made it. Its checksum shows that it is whole,
    not who wrote it. One that calls anything outside itself but known kernels of linear algebra is
    refused; what is left can still use memory and time without end.

    Args:
      path: what `export` was given.
      custom_calls: targets of further custom calls that you trust, such as "tpu_custom_call" for a
        model with Pallas kernels.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there was not written by `export`, is damaged, is of several
        devices, or makes custom calls that are not known.
    """
    target = Path(path).expanduser().absolute()
    if not target.exists():
        raise FileNotFoundError(f"{target}: no such exported model; there is nothing at this path.")
    if not (target / ABOUT).exists() or not (target / PROGRAM).exists():
        raise CheckpointError(
            f"{target} is no exported model: it does not hold both {PROGRAM} and {ABOUT}."
        )
    crc32, weights = _about(target)
    serialized = read_bounded(target / PROGRAM, largest=_LARGEST, error=CheckpointError)
    if zlib.crc32(serialized) != crc32:
        raise CheckpointError(f"{target} is damaged: {PROGRAM} is not what was written.")
    need_flatbuffers()
    program = _program(target, serialized, custom_calls)
    held = (restore(target / WEIGHTS),) if weights == "beside" else ()
    try:
        model = ExportedModel(target, program, held)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{target} is damaged: {PROGRAM} takes other arguments than weights and inputs. "
            "Export it again."
        ) from error
    return model


def _about(target: Path) -> tuple[int, str]:
    """Returns the checksum of the program, and where its weights are."""
    try:
        about = read_json(target / ABOUT)
    except ValueError as error:
        raise CheckpointError(
            f"{target} is damaged: {ABOUT} is not what was written: {error}"
        ) from error
    for key, kind in (("format", int), ("lcjax", str), ("weights", str), ("crc32", int)):
        if type(about.get(key)) is not kind:
            raise CheckpointError(
                f"{target} is damaged: {ABOUT} is not what was written: {key} is "
                f"{kind_of(about[key]) if key in about else 'missing'}, expected {kind.__name__}. "
                "Export the model again."
            )
    if about["format"] != FORMAT:
        raise CheckpointError(
            f"{target} is of format {about['format']} and this lcjax reads format {FORMAT}: "
            f"install lcjax {about['lcjax']!r:.40}, which wrote it, or call jax.export.deserialize."
        )
    if about["weights"] not in ("inside", "beside"):
        raise CheckpointError(
            f"{target} is damaged: {ABOUT} is not what was written: weights is "
            f"{about['weights']!r:.40}, expected 'inside' or 'beside'. Export the model again."
        )
    return about["crc32"], about["weights"]


def _program(target: Path, serialized: bytes, custom_calls: Sequence[str]) -> jax.export.Exported:
    """Returns a program that runs on one device and calls nothing unknown."""
    try:
        program = jax.export.deserialize(bytearray(serialized))
        unknown = unknown_calls(program, custom_calls)
    except Exception as error:  # of flatbuffers, of MLIR or of JAX, whichever meets the fault
        raise CheckpointError(
            f"{target} is damaged: {PROGRAM} is not a program that this JAX reads "
            f"({printable(error, longest=200)}). Export it again."
        ) from error
    if unknown:
        names = ", ".join(printable(name, longest=60) for name in unknown[:5])
        raise CheckpointError(
            f"{target}: the program calls code outside itself: {names}; expected only known "
            "kernels of linear algebra. If you trust the program, name them in custom_calls=."
        )
    if program.nr_devices != 1:
        raise CheckpointError(
            f"{target}: the program is for {program.nr_devices} devices, expected 1. Export the "
            "model again with lcjax.export."
        )
    return program


def need_flatbuffers() -> None:
    """Raises, saying what to install, where jax.export cannot read or write programs."""
    try:
        import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("jax.export needs flatbuffers: pip install 'lcjax[export]'.") from error


def _dims(aval: Any) -> str:
    return ", ".join(map(str, aval.shape)) + ("," if len(aval.shape) == 1 else "")
