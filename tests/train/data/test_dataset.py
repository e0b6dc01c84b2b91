"""Image data: how a set is cut, what order batches come in, and what each of them holds."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.prepared import rows_of, same, take
from train.data.batches import epoch_order
from train.data.dataset import DataError
from train.data.images import in_memory as array_sets
from train.data.images.dataset import load
from train.data.images.splits import ImageSet, Split, StreamedSplit
from train.data.images.stream import batches, stream


@pytest.fixture(scope="session")
def digits():
    return load("digits")


def test_digits_has_the_published_shape(digits):
    test = digits.test()
    assert (len(digits.train) + len(digits.validation), len(test)) == (1437, 360)
    assert digits.image_shape == (8, 8, 1) and digits.in_memory
    assert digits.num_classes == 10 and digits.class_names == tuple("0123456789")
    assert digits.train.images.dtype == np.uint8 and digits.train.labels.dtype == np.int32
    assert test.images.min() == 0 and test.images.max() == 255
    assert len(np.unique(test.images)) == 17


def test_test_split_of_digits_is_fixed_and_stratified(digits):
    counts = np.bincount(digits.test().labels)
    every = counts + np.bincount(digits.train.labels) + np.bincount(digits.validation.labels)
    assert np.abs(counts - every / 5).max() < 1
    assert same(load("digits", split_seed=7).test().labels, digits.test().labels)


def test_splits_do_not_overlap(digits):
    train, validation, test = map(rows_of, (digits.train, digits.validation, digits.test()))
    assert len(validation) == 144
    assert not train & validation and not train & test and not validation & test


def test_validation_cut_follows_its_seed_alone(digits):
    assert same(load("digits").validation.images, digits.validation.images)
    other = load("digits", split_seed=1).validation
    assert rows_of(other) != rows_of(digits.validation)


def test_validation_is_a_fraction_or_a_count():
    assert len(load("digits", validation=0.25).validation) == round(1437 * 0.25)
    assert len(load("digits", validation=100).validation) == 100


@pytest.mark.parametrize("validation", [0, -0.5, 1437, 0.0001])
def test_validation_that_leaves_a_side_empty_is_an_error(validation):
    with pytest.raises(DataError, match=f"digits: validation is {validation}, .* 1437 training"):
        load("digits", validation=validation)


def test_mean_and_deviation_are_those_of_the_training_images(digits):
    scaled = digits.train.images / 255
    np.testing.assert_allclose(digits.mean, scaled.mean(), rtol=1e-12)
    np.testing.assert_allclose(digits.std, scaled.std(), rtol=1e-9)


def test_images_can_be_resized_and_limited():
    small = load("digits", image_size=12, limit=50)
    assert small.image_shape == (12, 12, 1)
    assert len(small.train) + len(small.validation) == 50 and len(small.test()) == 50


def test_class_count_that_does_not_match_is_an_error():
    with pytest.raises(DataError, match="digits: num_classes is 100, but its labels have 10 clas"):
        load("digits", num_classes=100)
    assert load("digits", num_classes=10, limit=20).num_classes == 10


def test_test_split_is_read_only_when_asked_for(monkeypatch):
    read = []

    def recorded(part):
        read.append(part)
        return Split(np.zeros((20, 2, 2, 1), np.uint8), np.zeros(20, np.int32))

    source = ImageSet("zeros", ("only",), recorded)
    monkeypatch.setattr(array_sets, "digits", lambda: source)
    images = load("digits")
    assert read == ["train"]
    assert len(images.test()) == 20
    assert read == ["train", "test"]


def test_labels_beyond_the_classes_are_an_error(monkeypatch):
    wrong = Split(np.zeros((20, 2, 2, 1), np.uint8), np.arange(20, dtype=np.int32))
    source = ImageSet("wrong", ("a", "b"), lambda part: wrong)
    monkeypatch.setattr(array_sets, "digits", lambda: source)
    with pytest.raises(DataError, match="wrong, train: labels range from 0 to 19; expected 0 to 1"):
        load("digits")


def test_epoch_order_is_a_permutation_without_its_remainder():
    order = epoch_order(seed=3, epoch=2, count=103, batch_size=10)
    assert order.shape == (10, 10) and order.dtype == np.int32
    assert len(set(order.ravel().tolist()) & set(range(103))) == 100


def test_epoch_order_depends_on_seed_and_epoch_alone():
    first = epoch_order(0, 0, 100, 10)
    assert same(first, epoch_order(0, 0, 100, 10))
    assert not np.array_equal(first, epoch_order(0, 1, 100, 10))
    assert not np.array_equal(first, epoch_order(1, 0, 100, 10))
    assert not np.array_equal(epoch_order(0, 1, 100, 10), epoch_order(1, 0, 100, 10))


def _streamed(split):
    """The same images, to be read one by one."""

    class Rows:
        def __len__(self):
            return len(split)

        def __getitem__(self, index):
            return Image.fromarray(split.images[index, ..., 0]), int(split.labels[index])

        def many(self, indices):
            return [self[i] for i in indices]

    return StreamedSplit(Rows(), np.arange(len(split)), split.images.shape[1:], varied=False)


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_hold_every_row_in_order_and_mark_the_padding(digits, in_memory):
    split = digits.validation if in_memory else _streamed(digits.validation)
    images, labels = zip(*batches(split, 50), strict=True)
    assert [part.shape for part in images] == [(50, 8, 8, 1)] * 3
    images, labels = np.concatenate(images), np.concatenate(labels)
    np.testing.assert_array_equal(images[:144], digits.validation.images)
    np.testing.assert_array_equal(labels[:144], digits.validation.labels)
    assert (labels[144:] == -1).all() and not images[144:].any()
    assert images.dtype == np.uint8 and labels.dtype == np.int32


def test_batches_that_come_out_even_are_not_padded(digits):
    labels = [labels for _, labels in batches(digits.validation, 72)]
    assert len(labels) == 2 and np.concatenate(labels).min() == 0


@pytest.mark.parametrize("in_memory", [True, False])
def test_stream_goes_on_at_any_step(digits, in_memory):
    split = digits.validation if in_memory else _streamed(digits.validation)
    whole = take(stream(split, 32, seed=5), 11)
    assert whole[0][0].shape == (32, 8, 8, 1)
    assert whole[0][0].dtype == np.uint8 and whole[0][1].dtype == np.int32
    for start in (1, 4, 9):
        resumed = take(stream(split, 32, seed=5, start_step=start), 2)
        assert all(same(a, b) for a, b in zip(resumed, whole[start:], strict=False))
    other = next(stream(split, 32, seed=6))
    assert not np.array_equal(other[0], whole[0][0])


def test_stream_shuffles_every_epoch_anew_and_repeats_no_row_within_one():
    count = np.arange(20)
    rows = Split(np.zeros((20, 1, 1, 1), np.uint8), count.astype(np.int32))
    labels = [labels for _, labels in take(stream(rows, 6, seed=0), 9)]
    epochs = [np.concatenate(labels[i : i + 3]) for i in (0, 3, 6)]
    assert all(len(set(epoch.tolist())) == 18 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])


def test_batch_larger_than_the_split_is_an_error(digits):
    with pytest.raises(DataError, match="batch_size is 145; expected at most 144, all images"):
        stream(digits.validation, 145, seed=0)
