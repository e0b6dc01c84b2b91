"""Writes safetensors files tensor by tensor, at places that are known before the first byte."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lcjax.folder.storage.tensor_files import DTYPES

_ALIGNMENT = 8  # bytes, of the data in a safetensors file


class NewTensor(NamedTuple):
    """A tensor to write.

    Attributes:
      file: name of its file.
      dtype: in the format's notation.
      shape: of the tensor.
      bytes: that it takes.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @classmethod
    def of(cls, file: str, dtype: str, shape: tuple[int, ...]) -> "NewTensor":
        """Returns a tensor of floats."""
        return cls(file, dtype, shape, math.prod(shape) * DTYPES[dtype].itemsize)


class ShardWriter:
    """The safetensors files of a folder, of their final size from the start.

    Every tensor is written to its own place, so that a process may go on where another was killed.

    References: the format's description in the README of huggingface/safetensors.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, NewTensor],
        metadata: Mapping[str, Mapping[str, str]],
    ):
        """Plans the files.

        Args:
          folder: that exists.
          tensors: by name, in the order of their bytes in each file.
          metadata: of each file's header, by the name of the file.
        """
        self._folder, self._tensors = folder, tensors
        self._headers: dict[str, bytes] = {}
        self._starts: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        for file in dict.fromkeys(tensor.file for tensor in tensors.values()):
            self._plan(file, metadata.get(file, {}))

    def create(self) -> None:
        """Creates the files with their headers and final sizes; keeps what they already have."""
        for file, header in self._headers.items():
            with open(os.open(self._folder / file, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as opened:
                opened.truncate(self._sizes[file])
                opened.write(header)

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes a tensor's values.

        Args:
          name: of the tensor.
          array: of its shape; cast to its dtype.
        """
        planned = self._tensors[name]
        if array.shape != planned.shape:
            raise ValueError(f"{name}: got shape {array.shape}, expected {planned.shape}.")
        cast = np.ascontiguousarray(array, DTYPES[planned.dtype])
        self.write_bytes(name, [cast.reshape(-1).view(np.uint8).data])

    def write_bytes(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Writes a tensor's bytes, given in pieces."""
        planned = self._tensors[name]
        with open(self._folder / planned.file, "r+b") as file:
            file.seek(self._starts[name])
            written = sum(file.write(chunk) for chunk in chunks)
        if written != planned.bytes:
            raise ValueError(f"{name}: got {written} bytes, expected {planned.bytes}.")

    def sync(self, names: Iterable[str]) -> None:
        """Waits until the disk has the files of some tensors."""
        for file in {self._tensors[name].file for name in names}:
            sync(self._folder / file)

    def _plan(self, file: str, metadata: Mapping[str, str]) -> None:
        own = {name: tensor for name, tensor in self._tensors.items() if tensor.file == file}
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        offset = 0
        for name, tensor in own.items():
            end = offset + tensor.bytes
            header[name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [offset, end],
            }
            self._starts[name], offset = offset, end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._headers[file] = len(text).to_bytes(8, "little") + text
        for name in own:
            self._starts[name] += len(self._headers[file])
        self._sizes[file] = len(self._headers[file]) + offset


def sync(path: Path) -> None:
    """Waits until the disk has a file or the entries of a directory."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
