"""Fashion-MNIST as Debian packages it: idx files, whole or damaged."""

import gzip
import struct

import numpy as np
import pytest

from tests.helpers.prepared import rows_of
from train.data.dataset import DataError
from train.data.images import in_memory as array_sets
from train.data.images.dataset import load


def _write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def debian(tmp_path, monkeypatch):
    directory = tmp_path / "debian"
    directory.mkdir()
    monkeypatch.setattr(array_sets, "DEBIAN_FASHION_MNIST", directory)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    for stem, count in (("train", 30), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        _write_idx(directory / f"{stem}-images-idx3-ubyte.gz", images)
        _write_idx(
            directory / f"{stem}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10
        )
    return directory


def test_fashion_mnist_is_found_as_debian_installs_it(debian):
    images = load("fashion_mnist")
    assert (images.image_shape, images.num_classes) == ((28, 28, 1), 10)
    assert (len(images.train), len(images.validation), len(images.test())) == (27, 3, 10)
    expected = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    went_in = {(image.tobytes(), i % 10) for i, image in enumerate(expected)}
    assert rows_of(images.train) | rows_of(images.validation) == went_in


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_truncated_idx_file_is_named(debian, kept):
    path = debian / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"{path.name} (cannot be read|is not a complete idx file)"):
        load("fashion_mnist")


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\0", b"\0\0\x08\x01\0\0\0\2a"]
)
def test_idx_file_of_another_form_is_named(tmp_path, raw):
    path = tmp_path / "odd.gz"
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(DataError, match="odd.gz is not a complete idx file of bytes"):
        array_sets.read_idx(path)


def test_idx_files_that_do_not_belong_together_are_an_error(debian):
    _write_idx(debian / "train-labels-idx1-ubyte.gz", np.zeros(29, np.uint8))
    with pytest.raises(DataError, match=r"images have shape \(30, 28, 28\) and labels \(29,\)"):
        load("fashion_mnist")
