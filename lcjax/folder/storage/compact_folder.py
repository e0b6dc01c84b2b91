"""The files of a compact folder: tensors as in the source, but for those of MLPs, and the rest."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcjax.folder.storage.model_folder import ModelFolder
from lcjax.folder.storage.shard_writer import NewTensor, ShardWriter
from lcjax.folder.storage.tensor_files import DTYPES
from lcjax.interop.source import INDEX
from lcjax.validation.json_files import read_json

# Weights in other formats are those of the deep model.
_WEIGHTS = frozenset(
    ".safetensors .bin .pt .pth .h5 .msgpack .onnx .ot .gguf .tflite .pb .npz .xml".split()
)
_WRITTEN = ("config.json", "README.md", INDEX)  # that a compact folder has anew
_LEFT_OUT = frozenset({".git", ".cache", "__pycache__"})

Shapes = Mapping[str, tuple[int, ...] | None]


class CompactFolder:
    """A folder like another, with some tensors of other shapes.

    Attributes:
      path: of the folder, which exists.
      tensors: all that it will have, by name.
    """

    def __init__(self, path: Path, source: ModelFolder, shapes: Shapes, like: Mapping[str, str]):
        """Plans the files.

        Args:
          path: of the folder.
          source: the folder that it is made from.
          shapes: of the tensors that change, by name; None for those that are left out.
          like: for new tensors, the tensor of the source in whose file and dtype they go.
        """
        self.path, self._source, self._changed = path, source, set(shapes)
        self.tensors: dict[str, NewTensor] = {}
        for name, place in source.tensors.places.items():
            shape = shapes.get(name, place.shape)
            if name not in shapes:
                size = source.tensors.bytes[name]
                self.tensors[name] = NewTensor(place.file.name, place.dtype, place.shape, size)
            elif shape is not None:
                self.tensors[name] = NewTensor.of(place.file.name, place.dtype, shape)
            for new in (new for new, old in like.items() if old == name):
                self.tensors[new] = NewTensor.of(place.file.name, place.dtype, shapes[new] or ())
        metadata = {file.name: found for file, found in source.tensors.metadata.items()}
        self._writer = ShardWriter(path, self.tensors, metadata)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        kept = (tensor for tensor in self.tensors.values() if tensor.dtype in DTYPES)
        return sum(math.prod(tensor.shape) for tensor in kept)

    @property
    def bytes(self) -> int:
        """Bytes of the weights."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    def create(self) -> None:
        """Creates the files of weights, which are sparse until tensors are written."""
        self._writer.create()

    def copy(self) -> None:
        """Copies the tensors that stay; they are on the disk when it returns."""
        same = [name for name in self.tensors if name not in self._changed]
        for name in same:
            self._writer.write_bytes(name, self._source.tensors.chunks(name))
        self._writer.sync(self.tensors)

    def write(self, arrays: Mapping[str, Any]) -> None:
        """Writes tensors that change; they are on the disk when it returns."""
        for name, array in arrays.items():
            self._writer.write(name, array)
        self._writer.sync(arrays)

    def write_rest(self, config: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Writes all other files: those of the source that are not weights, and new ones.

        Args:
          config: contents of config.json.
          texts: contents of more files, by name.
        """
        self._copy_tree(self._source.path, self.path)
        if (self._source.path / INDEX).exists():
            self._write(INDEX, as_json(self._index()))
        self._write("config.json", as_json(config))
        for name, text in texts.items():
            self._write(name, text)

    def _index(self) -> dict[str, Any]:
        index = read_json(self._source.path / INDEX)
        metadata = dict(index.get("metadata") or {})
        metadata["total_size"] = self.bytes
        if "total_parameters" in metadata:
            metadata["total_parameters"] = self.parameters
        files = {name: tensor.file for name, tensor in sorted(self.tensors.items())}
        return {"metadata": metadata, "weight_map": files}

    def _copy_tree(self, source: Path, target: Path) -> None:
        for entry in sorted(source.iterdir()):
            top = source == self._source.path
            if entry.is_dir() and entry.name not in _LEFT_OUT:
                (target / entry.name).mkdir(exist_ok=True)
                self._copy_tree(entry, target / entry.name)
                if not any((target / entry.name).iterdir()):
                    (target / entry.name).rmdir()
            elif entry.is_file() and entry.suffix not in _WEIGHTS:
                if not (top and entry.name in _WRITTEN) and not entry.name.endswith(".index.json"):
                    shutil.copyfile(entry, target / entry.name)

    def _write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")


def as_json(value: Any) -> str:
    """Returns a value as the text of a JSON file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
