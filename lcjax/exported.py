"""Runs models that `lcjax.export` wrote, with JAX alone and no model code."""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax.checkpoint import restore
from lcjax.leaves import describe
from lcjax.sealed import CheckpointError

PROGRAM, WEIGHTS, ABOUT = "program.jax", "weights", "export.json"  # the files of a model
FORMAT = 1
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
            same = leaf.shape[:1] == batch and leaf.shape[1:] == aval.shape[1:]
            if not same or 0 in leaf.shape or not batch or dtype != aval.dtype:
                also = f", the batch that of the first, {batch[0]}" if i and batch else ""
                raise ValueError(
                    f"{self._path}: input {i} is {describe(leaf)}, wanted {self.inputs[i]}{also}."
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


def load_exported(path: str | os.PathLike[str]) -> ExportedModel:
    """Returns the model that `export` wrote, to be called with its inputs; needs no model code.

    Args:
      path: what `export` was given.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there was not written by `export`, or is damaged.
    """
    target = Path(path).expanduser().absolute()
    if not target.exists():
        raise FileNotFoundError(f"{target}: no such exported model; there is nothing at this path.")
    if not (target / ABOUT).exists() or not (target / PROGRAM).exists():
        raise CheckpointError(
            f"{target} is no exported model: it does not hold both {PROGRAM} and {ABOUT}."
        )
    serialized = (target / PROGRAM).read_bytes()
    try:
        about = json.loads((target / ABOUT).read_text())
        form, crc32, weights = (about[key] for key in ("format", "crc32", "weights"))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{target} is damaged: {ABOUT} is not what was written.") from error
    if form != FORMAT:
        raise CheckpointError(
            f"{target} is of format {form} and this lcjax reads format {FORMAT}: "
            f"install lcjax {about['lcjax']}, which wrote it, or call jax.export.deserialize."
        )
    if zlib.crc32(serialized) != crc32:
        raise CheckpointError(f"{target} is damaged: {PROGRAM} is not what was written.")
    need_flatbuffers()
    program = jax.export.deserialize(bytearray(serialized))
    held = (restore(target / WEIGHTS),) if weights == "beside" else ()
    return ExportedModel(target, program, held)


def need_flatbuffers() -> None:
    """Raises, saying what to install, where jax.export cannot read or write programs."""
    try:
        import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("jax.export needs flatbuffers: pip install 'lcjax[export]'.") from error


def _dims(aval: Any) -> str:
    return ", ".join(map(str, aval.shape)) + ("," if len(aval.shape) == 1 else "")
