"""Sets of any origin that TFDS prepared: no code of theirs runs, and each fault is one error."""

import json
import os
import shutil
import sys

import pytest

from tests.helpers.hostile import NO_JSON, NO_OBJECT, WRONG, at, pipe, safe, sparse
from tests.helpers.prepared import prepare_set
from train.data.dataset import DataError
from train.data.tfds.builder import Prepared, text_of
from train.data.tfds.images import tfds_images


def refused(call, kind=ValueError, match="."):
    with pytest.raises(kind, match=match) as error:
        call()
    safe(error.value)


# Sets that TFDS prepared.


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    prepare_set(data_dir, "hostile", shape=(4, 4, 1), splits={"train": 6, "test": 3})
    return data_dir / "hostile" / "1.0.0"


@pytest.fixture
def prepared(images, tmp_path):
    return shutil.copytree(images, tmp_path / "1.0.0")


def _change(path, keys, value):
    path.write_text(json.dumps(at(json.loads(path.read_text()), keys, value)))


IMAGE = ["featuresDict", "features", "image"]
EVIL = """
from pathlib import Path
import tensorflow_datasets as tfds
Path(__file__).with_name("ran").touch()
class Image(tfds.features.Image): pass
"""


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
@pytest.mark.parametrize("name", ["evil_features.Image", "os.system", "tensorflow_datasets.x.Y"])
def test_no_module_is_imported_that_a_set_names(key, name, prepared, tmp_path, monkeypatch):
    (tmp_path / "evil_features.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    _change(prepared / "features.json", [*IMAGE, "pythonClassName"], ...)
    _change(prepared / "features.json", [*IMAGE, key], name)
    refused(lambda: tfds_images(prepared), DataError, "would import and run; expected one of")
    assert not (tmp_path / "ran").exists() and "evil_features" not in sys.modules


def test_nor_in_the_form_of_older_sets_or_deeper(prepared, tmp_path, monkeypatch):
    (tmp_path / "evil_features.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    old = {"type": "evil_features.Image", "content": {}}
    features = json.loads((prepared / "features.json").read_text())
    for changed in (old, at(features, [*IMAGE, "sequence"], {"feature": old})):
        (prepared / "features.json").write_text(json.dumps(changed))
        refused(lambda: tfds_images(prepared), DataError, "would import and run")
    changed = at(features, [*IMAGE, "jsonFeature"], {"json": json.dumps(old)})
    (prepared / "features.json").write_text(json.dumps(changed))
    refused(lambda: tfds_images(prepared), DataError)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [*NO_JSON, *NO_OBJECT])
@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_files_of_a_set_that_are_no_json(file, name, prepared):
    (prepared / file).write_bytes((NO_JSON | NO_OBJECT)[name])
    refused(lambda: tfds_images(prepared), DataError, file)


@pytest.mark.parametrize("make", [sparse, pipe, os.mkdir])
@pytest.mark.parametrize("file", ["features.json", "dataset_info.json", "label.labels.txt"])
def test_files_of_a_set_that_are_no_files(file, make, prepared):
    (prepared / file).unlink(missing_ok=True)
    make(prepared / file)
    refused(lambda: tfds_images(prepared), DataError, file)


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_parts_of_a_set(wrong, prepared):
    def read():
        found = tfds_images(prepared)
        return found.read("train"), found.read("test")

    whole = {file: (prepared / file).read_text() for file in ("features.json", "dataset_info.json")}
    paths = [("features.json", keys) for keys in (
        ["featuresDict"], ["featuresDict", "features"], IMAGE, [*IMAGE, "image"],
        [*IMAGE, "pythonClassName"], [*IMAGE, "image", "shape"],
        ["featuresDict", "features", "label", "classLabel", "numClasses"],
    )]  # fmt: skip
    paths += [("dataset_info.json", keys) for keys in (
        ["splits"], ["splits", 0], ["splits", 0, "name"], ["splits", 0, "shardLengths"],
        ["splits", 0, "filepathTemplate"], ["name"], ["version"], ["fileFormat"],
    )]  # fmt: skip
    for file, keys in paths:
        _change(prepared / file, keys, wrong)
        try:
            read()
        except DataError as error:
            safe(error)
        (prepared / file).write_text(whole[file])
    read()


@pytest.mark.parametrize(
    "template", ["../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "/etc/{SPLIT}{SHARD_X_OF_Y}",
                 "{DATASET.__class__}", "sub/{SPLIT}-{SHARD_X_OF_Y}"]
)  # fmt: skip
def test_files_of_a_set_that_lie_elsewhere(template, prepared):
    _change(prepared / "dataset_info.json", ["splits", 0, "filepathTemplate"], template)
    _change(prepared / "dataset_info.json", ["splits", 1, "filepathTemplate"], template)
    refused(lambda: tfds_images(prepared).read("train"), DataError)


@pytest.mark.parametrize("name", ["../label", "a/b", "..", "", "a\x1b", "a\\b"])
def test_features_whose_names_are_paths(name, prepared):
    features = json.loads((prepared / "features.json").read_text())
    inner = features["featuresDict"]["features"]
    inner[name] = inner.pop("label")
    (prepared / "features.json").write_text(json.dumps(features))
    refused(lambda: tfds_images(prepared), DataError, "a feature is called")


def test_sizes_that_no_set_has(prepared):
    label = ["featuresDict", "features", "label", "classLabel", "numClasses"]
    whole = (prepared / "features.json").read_text()
    for count in ("1000000000", "-1", 10**30):
        _change(prepared / "features.json", label, count)
        refused(lambda: tfds_images(prepared), DataError, "numClasses is")
        (prepared / "features.json").write_text(whole)
    shape = {"dimensions": ["1000000", "1000000", "1"]}
    _change(prepared / "features.json", [*IMAGE, "image", "shape"], shape)
    refused(lambda: tfds_images(prepared), DataError, "have edges of")


def test_texts_of_a_set_that_are_not_utf_8(prepared):
    found = Prepared(prepared)
    assert text_of("é".encode(), found, "train") == "é"
    refused(lambda: text_of(b"\xff\xfe", found, "train"), DataError, "train: a text is not UTF-8")
