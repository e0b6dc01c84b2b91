"""A folder of Hugging Face transformers: its config, its weights, and what makes it unusable."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcjax._messages import first_few, printable
from lcjax.errors import WeightsError
from lcjax.folder.storage.tensor_files import DTYPES, TensorFiles
from lcjax.interop.source import INDEX, find_files, read_config
from lcjax.validation.json_files import read_json

# Tensors of quantized weights, and the method that writes them.
_QUANTIZED = (
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(weight\.)?(absmax|quant_map|quant_state\..*|SCB)$"), "bitsandbytes"),
    (re.compile(r"\.(weight_scale|weight_scale_inv|input_scale)$"), "FP8"),
)
_CONFIG_FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
_METHODS = {"bitsandbytes": "bitsandbytes", "gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8"}
_ADVICE = "Take the folder of the weights before they were quantized"


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose files agree with each other.

    Attributes:
      path: of the folder.
      config: contents of config.json.
      tensors: its weights.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: TensorFiles

    @property
    def parameters(self) -> int:
        """Number of weights in the files."""
        return sum(place.size for place in self.tensors.places.values() if place.dtype in DTYPES)

    @property
    def bytes(self) -> int:
        """Bytes of the weights in the files."""
        return sum(self.tensors.bytes.values())

    @property
    def identity(self) -> dict[str, Any]:
        """Its path, and what changes where its files do, as JSON."""
        files = {file.name: file.stat() for file in self.tensors.metadata}
        return {
            "source": str(self.path.resolve()),
            "config": hashlib.sha256(json.dumps(self.config).encode()).hexdigest(),
            "weights": {name: [each.st_size, each.st_mtime_ns] for name, each in files.items()},
        }


def read_model_folder(path: Path) -> ModelFolder:
    """Returns a model folder; reads its JSON files and the headers of its weights.

    Raises:
      FileNotFoundError: no such folder.
      WeightsError: no config.json, no safetensors files, several without an index, a file that the
        index names and that is missing, an index that differs from the files, quantized weights.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected the folder of a model; give its path.")
    config = read_config(path)
    if config is None:
        raise WeightsError(f"{path}: got no config.json, expected one; give the model's folder.")
    _refuse_quantized_config(path, config)
    tensors = TensorFiles(find_files(path))
    _refuse_quantized_tensors(path, tensors)
    _check_index(path, tensors)
    return ModelFolder(path, config, tensors)


def _refuse_quantized_config(path: Path, config: Mapping[str, Any]) -> None:
    found = config.get("quantization_config") or config.get("compression_config")
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found
        named = _METHODS.get(str(method).lower(), printable(method, longest=60))
        raise WeightsError(
            f"{path}/config.json, quantization_config: got weights quantized by {named}, expected "
            f"float weights. {_ADVICE}."
        )
    for file, method in _CONFIG_FILES.items():
        if (path / file).exists():
            raise WeightsError(
                f"{path}/{file}: got weights quantized by {method}, expected float weights. "
                f"{_ADVICE}."
            )


def _refuse_quantized_tensors(path: Path, tensors: TensorFiles) -> None:
    for name, place in tensors.places.items():
        method = next((method for pattern, method in _QUANTIZED if pattern.search(name)), None)
        if method is None and name.endswith(".weight") and place.dtype not in DTYPES:
            method = f"a method with {place.dtype} weights"
        if method is not None:
            raise WeightsError(
                f"{path}: {printable(name, longest=100)}: got weights quantized by {method}, "
                f"expected float weights. {_ADVICE}."
            )


def _check_index(path: Path, tensors: TensorFiles) -> None:
    """Raises if an index names other tensors than the files have, or in other files."""
    if not (path / INDEX).exists():
        return
    named = read_json(path / INDEX, error=WeightsError)["weight_map"]
    actual = {name: place.file.name for name, place in tensors.places.items()}
    differing = {
        name for name in named.keys() | actual.keys() if named.get(name) != actual.get(name)
    }
    if differing:
        shown = printable(first_few(differing), longest=300)
        raise WeightsError(
            f"{path / INDEX}: differs from the files about {shown}; expected every tensor in the "
            "file that the index names. Download the folder again."
        )
