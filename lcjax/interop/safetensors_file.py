"""Safetensors files, mapped into memory and read one tensor at a time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcjax._messages import printable
from lcjax._optional import import_optional
from lcjax.errors import WeightsError

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class Stored(NamedTuple):
    """A tensor according to the header of its file.

    Attributes:
      shape: shape in the file.
      dtype: dtype in the format's notation, such as "F32" or "BF16".
    """

    shape: tuple[int, ...]
    dtype: str


class Tensors:
    """The tensors of open files.

    Attributes:
      where: name of the files in errors.
      stored: shape and dtype of every tensor, by name.
      metadata: the metadata of the files' headers.
    """

    def __init__(self, where: str, handles: Sequence[Any]):
        self.where = where
        self.metadata: dict[str, str] = {}
        self._handles: dict[str, Any] = {}
        self.stored: dict[str, Stored] = {}
        for handle in handles:
            self.metadata |= handle.metadata() or {}
            for name in handle.keys():
                if name in self._handles:
                    raise WeightsError(
                        f"{where}: two files contain {printable(name)}; keep one of them."
                    )
                head = handle.get_slice(name)
                self._handles[name] = handle
                self.stored[name] = Stored(tuple(head.get_shape()), head.get_dtype())

    def read(self, name: str) -> np.ndarray:
        """Returns one tensor; bfloat16 is that of ml_dtypes.

        Raises:
          WeightsError: a tensor that cannot be read, or has a dtype that NumPy lacks; names it.
        """
        try:
            return self._handles[name].get_tensor(name)
        except Exception as error:  # from safetensors, NumPy or ml_dtypes
            raise WeightsError(
                f"{self.where}: {printable(name, longest=100)} {self.stored[name]} cannot be read: "
                f"{printable(error, longest=200)}; name it in ignore=, or convert the file."
            ) from error


@contextmanager
def open_tensors(files: Sequence[Path]) -> Iterator[Tensors]:
    """Opens safetensors files as one and reads only their headers.

    Raises:
      WeightsError: a file that is not a safetensors file or is truncated; names it.
      ImportError: safetensors is missing: `pip install 'lcjax[interop]'`.
    """
    library = import_safetensors()
    with ExitStack() as stack:
        handles = []
        for file in files:
            if not file.is_file():  # opening a pipe would wait for its writer
                raise WeightsError(
                    f"{file}: expected a safetensors file, got another kind of file."
                )
            try:
                handles.append(stack.enter_context(library.safe_open(file, framework="numpy")))
            except (library.SafetensorError, ValueError, TypeError, OverflowError) as error:
                raise WeightsError(
                    f"{file}: expected a complete safetensors file "
                    f"({printable(error, longest=200)}); download it again."
                ) from error
        yield Tensors(str(files[0] if len(files) == 1 else files[0].parent), handles)


def import_safetensors(module: str = "safetensors") -> Any:
    """Returns the package safetensors, or a module of it.

    Raises:
      ImportError: it is missing; the message has the command that installs it.
    """
    return import_optional(
        module,
        "safetensors files need the package safetensors",
        "lcjax[interop]",
    )
