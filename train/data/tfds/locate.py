"""Finds a set prepared by TensorFlow Datasets, or explains how to get it."""

import difflib
import os
import re
import socket
import threading
from fnmatch import fnmatch
from pathlib import Path

from lcjax.tree.paths import natural_sort_key
from lcjax.validation.json_files import read_json
from train.data.dataset import DataError

_HOST = ("storage.googleapis.com", 443)
_NETWORK_SECONDS = 3


def data_directory(data_dir: str | Path | None) -> Path:
    """Returns the given directory, or TFDS_DATA_DIR, or TFDS's own default."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(data_dir or default).expanduser()


def locate(name: str, data_dir: Path, *, others: str = "'digits'") -> Path | None:
    """Returns the directory of a prepared set; None if there is none. Reads files only.

    Args:
      name: "set", "set/config", "set:version" or "set/config:version"; a version may have stars.
        The newest matching version is taken.
      data_dir: TFDS's directory.
      others: other accepted names of data sets, for the error.

    Raises:
      DataError: if the name has another form, or there are several configs and the name has none.
    """
    base, config, version = _parse(name, others)
    root = data_dir / base
    if config is None and not _newest(root, version):
        config = _only_config(name, root, version)
    return _newest(root / config if config else root, version)


def _parse(name: str, others: str = "") -> tuple[str, str | None, str]:
    found = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::([\d.*]+))?", name)
    if not found:
        raise DataError(
            f"{name!r} is not the name of a data set; expected {others}, or a TFDS set as "
            "'name', 'name/config' or 'name:version'."
        )
    return found[1], found[2], found[3] or "*"


def _newest(directory: Path, version: str) -> Path | None:
    versions = [
        path.parent
        for path in directory.glob("*/features.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name) and fnmatch(path.parent.name, version)
    ]
    return max(versions, key=lambda path: natural_sort_key(path.name), default=None)


def _only_config(name: str, root: Path, version: str) -> str | None:
    configs = sorted({path.parent.parent.name for path in root.glob("*/*/features.json")})
    configs = [config for config in configs if _newest(root / config, version)]
    metadata = root / ".config" / "metadata.json"
    if len(configs) > 1 and metadata.is_file():
        default = read_json(metadata, error=DataError).get("default_config_name")
        configs = [default] if default in configs else configs
    if len(configs) > 1:
        raise DataError(f"{root} has several configs: {configs}. Name one: '{name}/CONFIG'.")
    return configs[0] if configs else None


def prepare(name: str, data_dir: Path, *, alternative: str = "") -> Path:
    """Downloads and prepares a set by TFDS, and returns its directory.

    Args:
      name: as for `locate`.
      data_dir: TFDS's directory.
      alternative: another way to get the set, for the error.

    Raises:
      DataError: if TFDS has no such set, there is no network, or TFDS fails, as it does for most
        sets without TensorFlow. Explains how to get the set; the network is tried for seconds only.
    """
    import tensorflow_datasets as tfds

    base = _parse(name)[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        near = difflib.get_close_matches(base, [*known, "digits"])
        hint = f" Close to it: {', '.join(near)}." if near else ""
        raise DataError(
            f"{name!r} was not found in {data_dir}, and TFDS has no set of that name.{hint}"
        )
    how = (
        "With a network, get it with\n"
        "  pip install tensorflow\n"
        f"  tfds build {name} --data_dir {data_dir} --file_format array_record\n"
        f"or give its directory with --data-dir or TFDS_DATA_DIR.{alternative}"
    )
    if not _reachable():
        raise DataError(
            f"{name!r} was not found in {data_dir}, and {_HOST[0]} cannot be reached to download "
            f"it. {how}"
        )
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises any error of the set's own code or the network
        raise DataError(
            f"{name!r} was not found in {data_dir}, and TFDS could not prepare it: {error}. {how}"
        ) from error
    return Path(builder.data_path)


def _reachable() -> bool:
    """Returns within seconds whether TFDS's storage answers; resolving the name may hang too."""
    answered = threading.Event()

    def connect():
        try:
            socket.create_connection(_HOST, timeout=_NETWORK_SECONDS).close()
            answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_NETWORK_SECONDS)
    return answered.is_set()
