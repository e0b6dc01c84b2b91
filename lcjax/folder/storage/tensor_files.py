"""Tensors of safetensors files, read from disk one at a time without mapping whole files."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lcjax.errors import WeightsError
from lcjax.interop.safetensors_file import open_tensors

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
CHUNK = 2**26  # bytes that are copied at once


class Place(NamedTuple):
    """Where a tensor is on disk.

    Attributes:
      file: its safetensors file.
      dtype: in the format's notation, such as "BF16".
      shape: of the tensor.
      start: position of its first byte in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class TensorFiles:
    """The tensors of safetensors files; a file is open only during a read.

    Memory maps would count every page that was read as memory of the process, a whole checkpoint at
    the end.

    Attributes:
      places: of all tensors by name, in the order in which the files have their bytes.
      bytes: of each tensor, by name.
      metadata: of each file, by its path.
    """

    def __init__(self, files: Sequence[Path]):
        """Reads the headers.

        Args:
          files: safetensors files.

        Raises:
          WeightsError: a damaged file, or a tensor in two of them.
          ImportError: safetensors is missing.
        """
        with open_tensors(files):  # the library checks headers and lengths
            pass
        found: dict[str, tuple[Place, int]] = {}
        self.metadata: dict[Path, dict[str, str]] = {}
        for file in files:
            header, start = _header(file)
            self.metadata[file] = header.pop("__metadata__", {})
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                place = Place(file, entry["dtype"], tuple(entry["shape"]), start + begin)
                found[name] = (place, end - begin)
        order = sorted(found, key=lambda name: (found[name][0].file, found[name][0].start, name))
        self.places = {name: found[name][0] for name in order}
        self.bytes = {name: found[name][1] for name in order}

    def read(self, name: str) -> np.ndarray:
        """Returns one tensor in its stored dtype."""
        place = self.places[name]
        with open(place.file, "rb") as file:
            return self._elements(file, name, 0, place.size).reshape(place.shape)

    def rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Returns some rows of a matrix in its stored dtype.

        Args:
          name: of the tensor, (rows, width).
          indices: integers (n,), in any order; each different row is read once.
        """
        place = self.places[name]
        width = math.prod(place.shape[1:])
        different, back = np.unique(indices, return_inverse=True)
        found = np.empty((len(different), width), DTYPES[place.dtype])
        runs = np.split(np.arange(len(different)), np.flatnonzero(np.diff(different) != 1) + 1)
        with open(place.file, "rb") as file:
            for run in runs:
                if len(run):
                    first = int(different[run[0]]) * width
                    block = self._elements(file, name, first, len(run) * width)
                    found[run] = block.reshape(len(run), width)
        return found[back.reshape(-1)]

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yields the bytes of a tensor as they are stored, in pieces of bounded size."""
        place, left = self.places[name], self.bytes[name]
        with open(place.file, "rb") as file:
            file.seek(place.start)
            while left:
                chunk = file.read(min(left, CHUNK))
                if not chunk:
                    raise WeightsError(f"{place.file}: ends before {name}; download it again.")
                left -= len(chunk)
                yield chunk

    def _elements(self, file, name: str, first: int, count: int) -> np.ndarray:
        place = self.places[name]
        dtype = DTYPES.get(place.dtype)
        if dtype is None:
            raise WeightsError(
                f"{place.file}: {name}: got dtype {place.dtype}, expected one of "
                f"{', '.join(DTYPES)}; convert the file."
            )
        file.seek(place.start + first * dtype.itemsize)
        raw = np.fromfile(file, np.uint8, count * dtype.itemsize)
        if raw.nbytes != count * dtype.itemsize:
            raise WeightsError(f"{place.file}: ends before {name}; download it again.")
        return raw.view(dtype)


def _header(file: Path) -> tuple[dict, int]:
    """Returns the header of a file that the library has checked, and where its data starts."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return json.loads(opened.read(length)), 8 + length
