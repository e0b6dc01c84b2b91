"""The tensors of safetensors files: mapped into memory, read one at a time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcjax._messages import printable
from lcjax._optional import import_optional
from lcjax.interop.errors import WeightsError

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class Stored(NamedTuple):
    """What a header says of a tensor.

    Attributes:
      shape: as it stands in the file.
      dtype: in the file's words, "F32", "BF16".
    """

    shape: tuple[int, ...]
    dtype: str


class Tensors:
    """The tensors of files that are open.

    Attributes:
      where: what errors call the files.
      stored: shape and dtype of every tensor, by name.
      metadata: what the files' headers say besides.
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
                        f"{where}: two files hold the tensor {printable(name)}. Keep one of them."
                    )
                head = handle.get_slice(name)
                self._handles[name] = handle
                self.stored[name] = Stored(tuple(head.get_shape()), head.get_dtype())

    def read(self, name: str) -> np.ndarray:
        """Returns one tensor; bfloat16 as ml_dtypes' own.

        Raises:
          WeightsError: when it is of a dtype that NumPy has not, or cannot be read; names it.
        """
        try:
            return self._handles[name].get_tensor(name)
        except Exception as error:  # of the library, of NumPy or of ml_dtypes
            raise WeightsError(
                f"{self.where}: {printable(name, longest=100)} {self.stored[name]} cannot be read: "
                f"{printable(error, longest=200)}. Skip it, or convert the file."
            ) from error


@contextmanager
def open_tensors(files: Sequence[Path]) -> Iterator[Tensors]:
    """Opens safetensors files as one; nothing but their headers is read.

    Raises:
      WeightsError: when one is no safetensors file, or was cut short; names it.
      ImportError: when the package safetensors is not installed.
    """
    library = import_safetensors()
    with ExitStack() as stack:
        handles = []
        for file in files:
            if not file.is_file():  # to open a pipe waits for its writer
                raise WeightsError(f"{file} is not a regular file; wanted a safetensors file.")
            try:
                handles.append(stack.enter_context(library.safe_open(file, framework="numpy")))
            except (library.SafetensorError, ValueError, TypeError, OverflowError) as error:
                raise WeightsError(
                    f"{file} is no safetensors file, or not all of one: "
                    f"{printable(error, longest=200)}. Fetch it again."
                ) from error
        yield Tensors(str(files[0] if len(files) == 1 else files[0].parent), handles)


def import_safetensors(module: str = "safetensors") -> Any:
    """Returns the package safetensors, or a module of it.

    Raises:
      ImportError: when it is not installed; says how to.
    """
    return import_optional(
        module,
        "Safetensors files are read and written by the package safetensors, which is missing",
        "lcjax[interop]",
    )
