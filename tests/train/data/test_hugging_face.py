"""Image sets that Hugging Face's package `datasets` loads."""

import io

import numpy as np
import pytest
from PIL import Image

from train.data.dataset import DataError
from train.data.images.dataset import load

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path, labels, *, names=("cat", "dog"), columns=("img", "label")):
    def png(value):
        Image.new("RGB", (6, 5), (value, 0, 0)).save(stream := io.BytesIO(), "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({"img": datasets.Image(), "label": kind})
    cells = {"img": [png(100 * label + 10) if label >= 0 else png(0) for label in labels]}
    cells["label"] = list(labels)
    features = datasets.Features({name: features[name] for name in columns})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({n: cells[n] for n in columns}, features.arrow_schema), path)


def check(split):
    images, labels = zip(*(split[i] for i in range(len(split))), strict=True)
    assert (np.stack(images)[:, 0, 0, 0] == 100 * np.array(labels) + 10).all()


def test_parquet_files_are_a_set(tmp_path):
    folder = tmp_path / "pets"
    write(folder / "train.parquet", [0, 1] * 4)
    write(folder / "test.parquet", [0, 1] * 2)
    data = load(f"hf:{folder}", validation=2)
    assert (len(data.train), len(data.validation), len(data.test())) == (6, 2, 4)
    assert data.class_names == ("cat", "dog") and data.image_shape == (5, 6, 3)
    assert data.name == "pets" and data.in_memory
    check(data.train)
    streamed = load(f"hf:{folder}", in_memory=False, image_size=4, limit=6, validation=2)
    assert not streamed.in_memory and streamed.image_shape == (4, 4, 3) and len(streamed.train) == 4
    check(streamed.train)


def test_a_saved_set_has_its_splits(tmp_path):
    write(tmp_path / "pets" / "train.parquet", [0, 1] * 5)
    write(tmp_path / "pets" / "test.parquet", [0, 1] * 2)
    datasets.load_dataset(str(tmp_path / "pets")).save_to_disk(tmp_path / "saved")
    data = load(f"hf:{tmp_path / 'saved'}", validation=2)
    assert (len(data.train), len(data.test())) == (8, 4) and data.name == "saved"
    check(data.test())


def test_without_test_labels_a_fifth_is_the_test_split(tmp_path):
    write(tmp_path / "a" / "train.parquet", [0, 1] * 5, names=None)
    write(tmp_path / "a" / "test.parquet", [-1] * 4, names=None)
    data = load(f"hf:{tmp_path / 'a'}", validation=2)
    assert (len(data.train), len(data.test())) == (6, 2) and data.class_names == ("0", "1")
    check(data.test())


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing: cannot be loaded by datasets"):
        load(f"hf:{tmp_path}/nothing")
    write(tmp_path / "b" / "train.parquet", [0], columns=("img",))
    with pytest.raises(DataError, match="got the columns img; expected a picture and a class"):
        load(f"hf:{tmp_path / 'b'}")
