"""Sets that TFDS prepared: found by name, read as they went in, and told how to get if absent."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.prepared import picture, prepare_set, rows_of, same, take
from train.data.dataset import DataError
from train.data.images import decode_cache as decoded
from train.data.images import in_memory as array_sets
from train.data.images.dataset import load
from train.data.images.splits import Split
from train.data.images.stream import batches, stream
from train.data.tfds import locate as tfds_find

REAL = os.environ.get("TFDS_DATA_DIR")
REACHABLE = tfds_find._reachable


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch, tmp_path):
    """No network, no Debian package, no TFDS directory, and a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tfds_find, "_reachable", lambda: False)
    monkeypatch.setattr(array_sets, "DEBIAN_FASHION_MNIST", tmp_path / "debian")


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """Three prepared sets: pictures of one size, pictures that vary, and one of another format."""
    root = tmp_path_factory.mktemp("tfds")
    prepare_set(root, "even", shape=(6, 8, 3), splits={"train": 40, "test": 10})
    prepare_set(
        root, "varied", shape=(None, None, 3), splits={"train": 12, "validation": 6, "test?": 4}
    )
    prepare_set(root, "train_only", shape=(4, 4, 1), splits={"train": 4})
    return root


def test_prepared_set_holds_the_pixels_that_went_in(tfds_dir):
    images = load("even", data_dir=tfds_dir)
    assert (images.name, images.num_classes, images.in_memory) == ("even/1.0.0", 3, True)
    assert images.class_names == ("0", "1", "2")
    went_in = {(picture(6, 8, 3, seed=i).tobytes(), i % 3) for i in range(40)}
    assert rows_of(images.train) | rows_of(images.validation) == went_in
    assert len(images.test()) == 10


def test_streamed_set_is_the_one_in_memory(tfds_dir):
    held = load("even", data_dir=tfds_dir)
    read = load("even", data_dir=tfds_dir, in_memory=False)
    assert not read.in_memory
    assert rows_of(read.train) == rows_of(held.train)
    assert rows_of(read.test()) == rows_of(held.test())
    np.testing.assert_allclose(read.mean, held.mean)
    np.testing.assert_allclose(read.std, held.std)
    for ours, theirs in zip(batches(read.train, 8), batches(held.train, 8), strict=True):
        assert same(ours, theirs)


def test_large_set_is_streamed_unasked(tfds_dir, monkeypatch):
    monkeypatch.setattr("train.data.images.splits._IN_MEMORY_BYTES", 40 * 6 * 8 * 3)
    assert not load("even", data_dir=tfds_dir).in_memory
    assert load("even", data_dir=tfds_dir, limit=39).in_memory


def test_pictures_that_vary_are_cropped_to_one_size(tfds_dir):
    images = load("varied", data_dir=tfds_dir, validation=4, image_size=16)
    assert not images.in_memory and images.image_shape == (16, 16, 3)
    assert load("varied", data_dir=tfds_dir, validation=4).image_shape == (224, 224, 3)
    first = take(stream(images.train, 4, seed=0), 5)
    assert first[0][0].shape == (4, 16, 16, 3)
    assert not rows_of(images.train) & rows_of(Split(*first[0])), "training crops are not random"
    resumed = next(stream(images.train, 4, seed=0, start_step=3))
    assert same(resumed, first[3])
    held = load("varied", data_dir=tfds_dir, validation=4, image_size=16, in_memory=True)
    assert held.in_memory and rows_of(held.train) == rows_of(images.train)


def test_withheld_test_labels_give_way_to_the_validation_split(tfds_dir):
    test = load("varied", data_dir=tfds_dir, image_size=8).test()
    assert [int(test[i][1]) for i in range(len(test))].count(-1) == 0
    assert len(test) == 6


def test_set_without_a_test_split_is_an_error_when_it_is_asked_for(tfds_dir):
    images = load("train_only", data_dir=tfds_dir, validation=1)
    with pytest.raises(
        DataError, match=r"train_only/1.0.0 has splits \['train'\]; expected a label"
    ):
        images.test()


def test_limit_reads_the_first_rows_only(tfds_dir):
    images = load("even", data_dir=tfds_dir, limit=8)
    assert len(images.train) + len(images.validation) == 8 and len(images.test()) == 8


def test_directory_comes_from_the_environment(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    assert load("even").name == "even/1.0.0"


def test_decoded_split_is_cached_until_its_files_change(tfds_dir, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(tfds_dir / "even", copy / "even")
    decodings = []
    decode = decoded._decode
    monkeypatch.setattr(
        decoded, "_decode", lambda split, name: decodings.append(name) or decode(split, name)
    )
    first = load("even", data_dir=copy)
    second = load("even", data_dir=copy)
    assert decodings == ["even/1.0.0/train"]
    assert same(first.train.images, second.train.images)
    assert same(first.train.labels, second.train.labels)
    (cached,) = (tmp_path / "cache" / "lcjax").iterdir()
    cached.write_bytes(cached.read_bytes()[:100])
    assert same(load("even", data_dir=copy).train.images, first.train.images)
    assert len(decodings) == 2, "a damaged cache is decoded again"
    for path in (copy / "even").rglob("*train*"):
        os.utime(path, (1, 1))
    load("even", data_dir=copy)
    load("even", data_dir=copy, limit=10)
    load("even", data_dir=copy, image_size=4)
    assert len(decodings) == 5


def test_cache_that_cannot_be_written_is_done_without(tfds_dir, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written, so the next run decodes again"):
        assert len(load("even", data_dir=tfds_dir).train) == 36


# Sets that are not there, or are something else.


def test_newest_version_that_fits_is_taken(tmp_path):
    for version in ("1.0.0", "2.9.0", "2.10.0", "2.11.0.incomplete"):
        (tmp_path / "a" / version).mkdir(parents=True)
        (tmp_path / "a" / version / "features.json").write_text("{}")
    assert tfds_find.locate("a", tmp_path).name == "2.10.0"
    assert tfds_find.locate("a:2.9.0", tmp_path).name == "2.9.0"
    assert tfds_find.locate("a:1.*.*", tmp_path).name == "1.0.0"
    assert tfds_find.locate("a:3.0.0", tmp_path) is None
    assert tfds_find.locate("b", tmp_path) is None


def test_config_is_found_by_name_or_default_and_asked_for_otherwise(tmp_path):
    for config in ("x", "y"):
        (tmp_path / "a" / config / "1.0.0").mkdir(parents=True)
        (tmp_path / "a" / config / "1.0.0" / "features.json").write_text("{}")
    assert tfds_find.locate("a/x", tmp_path) == tmp_path / "a" / "x" / "1.0.0"
    assert tfds_find.locate("a/x:1.0.0", tmp_path) == tmp_path / "a" / "x" / "1.0.0"
    with pytest.raises(DataError, match=r"has several configs: \['x', 'y'\]. .* 'a/CONFIG'"):
        tfds_find.locate("a", tmp_path)
    (tmp_path / "a" / ".config").mkdir()
    (tmp_path / "a" / ".config" / "metadata.json").write_text('{"default_config_name": "y"}')
    assert tfds_find.locate("a", tmp_path) == tmp_path / "a" / "y" / "1.0.0"
    shutil.rmtree(tmp_path / "a" / "y")
    assert tfds_find.locate("a", tmp_path) == tmp_path / "a" / "x" / "1.0.0"


def test_absent_set_says_where_it_looked_and_how_to_get_it(tmp_path):
    with pytest.raises(DataError) as caught:
        load("cifar10", data_dir=tmp_path)
    message = str(caught.value)
    assert f"'cifar10' was not found in {tmp_path}" in message
    assert "storage.googleapis.com cannot be reached" in message
    assert f"tfds build cifar10 --data_dir {tmp_path} --file_format array_record" in message


def test_absent_fashion_mnist_names_the_debian_package_too(tmp_path):
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        load("fashion_mnist", data_dir=tmp_path)


def test_unknown_name_lists_those_close_to_it(tmp_path):
    with pytest.raises(DataError, match="TFDS has no set of that name. Close to it: .*cifar10"):
        load("cifr10", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["", "two words", "a//b", "a:b"])
def test_malformed_name_is_an_error(name, tmp_path):
    with pytest.raises(DataError, match="is not the name of a data set; expected 'digits'"):
        load(name, data_dir=tmp_path)


def test_failure_of_tfds_is_told_with_the_way_to_get_the_set(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ImportError("No module named 'tensorflow'")

    monkeypatch.setattr(tfds_find, "_reachable", lambda: True)
    monkeypatch.setattr(tfds, "builder", fail)
    with pytest.raises(DataError, match="could not prepare it: No module named 'tensorflow'. Wi"):
        load("cifar10", data_dir=tmp_path)


def test_set_that_is_not_there_is_prepared_where_there_is_a_network(
    tmp_path, tfds_dir, monkeypatch
):
    class Builder:
        def __init__(self, name, *, data_dir, file_format):
            assert (name, data_dir, file_format) == ("cifar10", tmp_path, "array_record")
            self.data_path = None

        def download_and_prepare(self):
            self.data_path = shutil.copytree(tfds_dir / "even" / "1.0.0", tmp_path / "x" / "1.0.0")

    monkeypatch.setattr(tfds_find, "_reachable", lambda: True)
    monkeypatch.setattr(tfds, "builder", Builder)
    assert len(load("cifar10", data_dir=tmp_path).train) == 36


def test_missing_files_of_a_prepared_set_are_named(tfds_dir, tmp_path):
    shutil.copytree(tfds_dir / "even", tmp_path / "even")
    (file,) = (tmp_path / "even").rglob("*train.array_record*")
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name} does not exist. Prepare even/1.0.0 again"):
        load("even", data_dir=tmp_path)


def test_labels_of_another_class_count_are_an_error_on_reading(tfds_dir, tmp_path):
    shutil.copytree(tfds_dir / "even", tmp_path / "even")
    (file,) = (tmp_path / "even").rglob("features.json")
    file.write_text(file.read_text().replace('"numClasses": "3"', '"numClasses": "2"'))
    with pytest.raises(
        DataError, match="split train: a label is 2; expected 0 to 1, for 2 classes"
    ):
        load("even", data_dir=tmp_path)


def test_format_without_random_access_is_an_error(tfds_dir, tmp_path):
    shutil.copytree(tfds_dir / "even", tmp_path / "even")
    (file,) = (tmp_path / "even").rglob("dataset_info.json")
    file.write_text(file.read_text().replace("array_record", "tfrecord"))
    for path in (tmp_path / "even").rglob("*array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    with pytest.raises(DataError, match="stored as tfrecord, which has no random access. Prepare"):
        load("even", data_dir=tmp_path)


def test_probe_gives_up_on_a_network_that_does_not_answer(monkeypatch):
    over = threading.Event()

    def hang(*args, **kwargs):
        over.wait()
        raise OSError

    monkeypatch.setattr(tfds_find, "_NETWORK_SECONDS", 0.01)
    monkeypatch.setattr(tfds_find.socket, "create_connection", hang)
    assert not REACHABLE()
    over.set()


def test_probe_tells_a_network_that_refuses_from_one_that_answers(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(tfds_find.socket, "create_connection", refuse)
    assert not REACHABLE()
    monkeypatch.setattr(tfds_find.socket, "create_connection", lambda *_, **__: open(os.devnull))
    assert REACHABLE()


# Real sets, where they are prepared.


@pytest.mark.parametrize(
    ("name", "shape", "rows"),
    [("fashion_mnist", (28, 28, 1), 60_000), ("cifar10", (32, 32, 3), 50_000)],
)
def test_real_set_in_memory_and_streamed(name, shape, rows):
    if not REAL or not tfds_find.locate(name, Path(REAL)):
        pytest.skip(f"{name} is not prepared in TFDS_DATA_DIR")
    held = load(name, data_dir=REAL, limit=300)
    read = load(name, data_dir=REAL, in_memory=False)
    assert held.image_shape == read.image_shape == shape
    assert (held.num_classes, len(held.train), len(held.test())) == (10, 270, 300)
    assert len(read.train) + len(read.validation) == rows
    np.testing.assert_allclose(held.mean, read.mean, atol=0.05)
    images, labels = next(stream(read.train, 64, seed=0))
    assert images.shape == (64, *shape) and len(set(labels.tolist())) > 4


def test_real_set_of_sentences_is_not_one_of_images():
    if not REAL or not tfds_find.locate("glue/sst2", Path(REAL)):
        pytest.skip("glue/sst2 is not prepared in TFDS_DATA_DIR")
    with pytest.raises(DataError, match="glue/sst2/2.0.0 is not a set of labelled images: its fea"):
        load("glue/sst2", data_dir=REAL)
