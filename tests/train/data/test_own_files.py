"""Image sets of one's own: folders of pictures, .npz files, and what is wrong with them."""

import numpy as np
import pytest
from PIL import Image

from train.data.dataset import DataError
from train.data.images.dataset import load


def paint(folder, value, count=10, size=(6, 5), mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new(mode, size, value if mode == "L" else (value, i, 0)).save(folder / f"{i}.png")


def test_a_folder_of_pictures_by_class_is_a_set(tmp_path):
    paint(tmp_path / "pets" / "dog", 200)
    paint(tmp_path / "pets" / "cat", 10)
    data = load(str(tmp_path / "pets"), validation=2)
    assert data.class_names == ("cat", "dog") and data.num_classes == 2
    assert data.image_shape == (5, 6, 3) and data.name == "pets" and data.in_memory
    test = data.test()
    assert (len(data.train), len(data.validation), len(test)) == (14, 2, 4)
    assert sorted(test.labels.tolist()) == [0, 0, 1, 1]
    for split in (data.train, data.validation, test):
        assert (split.images[:, 0, 0, 0] == np.where(split.labels, 200, 10)).all()


def test_a_folder_may_be_named_as_one(tmp_path, monkeypatch):
    for name in ("dog", "cat"):
        paint(tmp_path / "pets" / name, 1)
    monkeypatch.chdir(tmp_path)
    assert load("folder:pets", validation=2).name == "pets"
    assert len(load(f"folder:{tmp_path}/pets").train) == len(load(f"{tmp_path}/pets").train)
    with pytest.raises(DataError, match="folder:none: got a path at which there is nothing"):
        load("folder:none")


def test_a_folder_with_train_and_test_has_these_splits(tmp_path):
    for part, count in (("train", 4), ("test", 3)):
        for name in "ab":
            paint(tmp_path / part / name, 9, count, mode="L")
    data = load(str(tmp_path), validation=2)
    assert len(data.train) == 6 and len(data.test()) == 6 and data.image_shape == (5, 6, 1)


def test_pictures_of_many_sizes_are_streamed_at_one(tmp_path):
    paint(tmp_path / "a", 1)
    paint(tmp_path / "b", 2, size=(20, 30))
    data = load(str(tmp_path), image_size=8)
    assert not data.in_memory and data.image_shape == (8, 8, 3)
    assert data.train[0][0].shape == (8, 8, 3)


def test_limit_and_in_memory_count_for_a_folder(tmp_path):
    for name in "ab":
        paint(tmp_path / name, 3)
    assert not load(str(tmp_path), in_memory=False).in_memory
    small = load(str(tmp_path), in_memory=False, limit=3, validation=1)
    assert (len(small.train), len(small.validation), len(small.test())) == (2, 1, 3)


@pytest.mark.parametrize("keras", [False, True])
def test_arrays_in_a_file_are_a_set(keras, tmp_path):
    images, labels = np.arange(20, dtype=np.uint8).repeat(16).reshape(20, 4, 4), np.arange(20) % 2
    names = ("x_train", "y_train") if keras else ("images", "labels")
    arrays = dict(zip(names, (images, labels), strict=True))
    if keras:
        arrays |= {"x_test": images[:3], "y_test": labels[:3, None]}
    np.savez(tmp_path / "mine.npz", **arrays)
    data = load(str(tmp_path / "mine.npz"), validation=2)
    assert data.image_shape == (4, 4, 1) and data.class_names == ("0", "1")
    test = data.test()
    assert len(test) == (3 if keras else 4)
    assert (test.images[:, 0, 0, 0] % 2 == test.labels).all()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none", "got a path at which there is nothing; expected a folder"),
        ("none.npz", "got a path at which there is nothing"),
        ("empty", "got 0 folders; expected one for each of at least two classes"),
        ("hollow", "b: got no pictures; expected PNG"),
        ("broken", "0.png: cannot be read as a picture"),
        ("few", "class 0 has 2 images, too few for a test split"),
        ("half", "got train without test"),
        ("more", "test/c: got a class that train lacks; expected the classes a, b"),
        ("deep", "0.png: got a picture of mode I;16, expected at most 8 bits a channel"),
        ("text.npz", "got no .npz file of arrays"),
        ("other.npz", "got the arrays a; expected images and labels"),
        ("floats.npz", "images: got float64 of shape"),
        ("short.npz", "labels: got int64 of 2 rows for 3 images"),
    ],
)
def test_what_is_no_set_says_what_is_expected(name, says, tmp_path):
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "hollow" / "a", 1)
    (tmp_path / "hollow" / "b").mkdir()
    for each in ("broken", "few"):
        paint(tmp_path / each / "a", 1, 2)
        paint(tmp_path / each / "b", 2, 9)
    paint(tmp_path / "broken" / "a", 1)
    (tmp_path / "broken" / "a" / "0.png").write_text("no picture")
    paint(tmp_path / "half" / "train" / "a", 1)
    for each in ("train/a", "train/b", "test/a", "test/b", "test/c"):
        paint(tmp_path / "more" / each, 1, 3)
    for each in "ab":
        paint(tmp_path / "deep" / each, 1, 3)
        Image.fromarray(np.full((5, 6), 300, np.uint16)).save(tmp_path / "deep" / each / "0.png")
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    np.savez(tmp_path / "floats.npz", images=np.ones((3, 4, 4)), labels=np.arange(3))
    np.savez(tmp_path / "short.npz", images=np.ones((3, 4, 4), np.uint8), labels=np.arange(2))
    with pytest.raises(DataError, match=says):
        load(str(tmp_path / name))
