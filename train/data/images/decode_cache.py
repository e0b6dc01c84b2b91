"""Decodes a split into memory and into the user's cache for the next run."""

import hashlib
import os
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from train.data.images.splits import Split, StreamedSplit

_CHUNK = 500


def decoded(split: StreamedSplit, name: str, files: Sequence[Path]) -> Split:
    """Returns a streamed split as arrays, read from the cache or written to it.

    The cache is `lcjax` under XDG_CACHE_HOME or ~/.cache; an entry is valid while the files keep
    their sizes and times. If the cache cannot be written, a warning says so.

    Args:
      split: to decode.
      name: of set and split, for the progress bar and the cached file.
      files: files of the split.
    """
    path = _cached_file(split, name, files)
    try:
        with path.open("rb") as file, np.load(file) as cached:
            return Split(cached["images"], cached["labels"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        pass  # missing or damaged: decode again
    result = _decode(split, name)
    try:
        _write(path, result)
    except OSError as error:
        message = f"{path} cannot be written, so the next run decodes again: {error}"
        warnings.warn(message, stacklevel=2)
    return result


def _cached_file(split: StreamedSplit, name: str, files: Sequence[Path]) -> Path:
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = repr((name, len(split), split.shape, stamps)).encode()
    digest = hashlib.sha256(key).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "lcjax" / f"{name.replace('/', '-')}-{digest}.npz"


def _decode(split: StreamedSplit, name: str) -> Split:
    images = np.empty((len(split), *split.shape), np.uint8)
    labels = np.empty(len(split), np.int32)
    with tqdm(total=len(split), desc=f"decoding {name}", unit=" images", disable=None) as bar:
        for start in range(0, len(split), _CHUNK):
            for i, (image, label) in enumerate(split.many(start, start + _CHUNK), start):
                images[i], labels[i] = image, label
                bar.update()
    return Split(images, labels)


def _write(path: Path, split: Split) -> None:
    """Writes the arrays to a temporary file first, so that no reader sees an incomplete one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        try:
            np.savez(file, images=split.images, labels=split.labels)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
