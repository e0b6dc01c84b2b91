"""Batches of texts by length: few shapes, every text once, the order by seed and step alone."""

from itertools import combinations, islice

import jax
import numpy as np
import pytest

from train.data.text.length_buckets import (
    PADDING,
    TextSplit,
    bucketed,
    grouped,
    text_batches,
    usable_lengths,
)
from train.validation import ConfigError

LENGTHS = (4, 8, 16)
rng = np.random.default_rng(0)
SIZES = rng.integers(1, 13, 50)


def split(sizes=SIZES, lengths=LENGTHS):
    """Text i is the token i, so many times as it is long, and has label i."""
    tokens = np.empty(len(sizes), object)
    tokens[:] = [np.full(size, i, np.int32) for i, size in enumerate(sizes)]
    return TextSplit(tokens, np.arange(len(sizes), dtype=np.int32), lengths)


def check(tokens, labels, sizes=SIZES):
    """Asserts that rows are the texts of these labels, padded."""
    for row, label in zip(np.asarray(tokens), np.asarray(labels), strict=True):
        size = 0 if label < 0 else sizes[label]
        assert (row[:size] == label).all() and (row[size:] == PADDING).all()


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_an_epoch_has_every_text_once_but_for_less_than_a_batch(batch_size):
    source = bucketed(split(), batch_size, seed=3)
    per_epoch = len(SIZES) // batch_size
    assert source.steps_per_epoch == per_epoch
    orders = []
    stream = source.inputs(0)
    for _ in range(2):
        seen = []
        for inputs in islice(stream, per_epoch):
            tokens, labels = source.fetch((), jax.tree.map(lambda each: each[0], inputs))
            assert tokens.shape[0] == batch_size and tokens.shape[1] in LENGTHS
            assert tokens.dtype == labels.dtype == np.int32
            check(tokens, labels)
            seen += labels.tolist()
        assert len(set(seen)) == len(seen) == per_epoch * batch_size
        orders.append(seen)
    if batch_size < len(SIZES):
        assert orders[0] != orders[1]


def test_lengths_come_mixed_and_a_batch_is_padded_to_the_least_that_holds_it():
    shapes = [inputs[0].shape[-1] for inputs in islice(bucketed(split(), 5, seed=0).inputs(0), 10)]
    assert len(set(shapes)) == 3 and shapes != sorted(shapes)
    for tokens, _ in text_batches(split(), 5):
        longest = (np.asarray(tokens) != PADDING).sum(-1).max()
        assert tokens.shape[1] == min(length for length in LENGTHS if length >= longest)


@pytest.mark.parametrize("start", [0, 1, 6, 7, 23])
def test_what_a_step_gets_depends_on_seed_and_step_alone(start):
    whole = list(islice(bucketed(split(), 7, seed=5).inputs(0), 30))
    resumed = list(islice(bucketed(split(), 7, seed=5).inputs(start), 30 - start))
    for ours, theirs in zip(resumed, whole[start:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    other = next(bucketed(split(), 7, seed=6).inputs(0))
    assert not np.array_equal(other[1], whole[0][1])


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_evaluation_sees_every_text_once_and_tells_what_fills_up(batch_size):
    seen = []
    for tokens, labels in text_batches(split(), batch_size):
        assert len(labels) == len(tokens) == batch_size
        check(tokens, labels)
        seen += labels[labels >= 0].tolist()
    assert sorted(seen) == list(range(len(SIZES)))


def test_what_fills_no_batch_goes_on_to_the_next_length():
    found, left = grouped(np.array([0, 0, 0, 2, 2]), np.arange(5), 2)
    assert [(bucket, part.tolist()) for bucket, part in found] == [(0, [0, 1]), (2, [2, 3])]
    assert left.tolist() == [4]


def test_too_few_texts_are_an_error():
    with pytest.raises(ConfigError, match="--batch-size is 51, but there are only 50 examples"):
        bucketed(split(), 51, seed=0)


def test_lengths_end_where_the_table_does():
    assert usable_lengths((8, 16, 32), 512) == (8, 16, 32)
    assert usable_lengths((8, 16, 32), 16) == (8, 16)
    assert usable_lengths((8, 16, 32), 20) == (8, 16, 20)
    for bad in ((), (2, 8), (8, 8), (16, 8)):
        with pytest.raises(ConfigError, match="--lengths is .*; expected ascending numbers"):
            usable_lengths(bad, 8)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_fewer_lengths_pad_the_least(count):
    sizes, lengths = rng.integers(1, 38, 60), (3, 5, 50)
    multiples = range(8, 48, 8)

    def padded(chosen):
        return sum(min(each for each in chosen if each >= size) for size in sizes)

    chosen = split(sizes, lengths).with_fewer_lengths(count).lengths
    subsets = combinations(multiples, min(count, 5))
    assert padded(chosen) == min(padded(each) for each in subsets if each[-1] >= max(sizes))
    assert len(chosen) <= count


def test_fewer_lengths_stay_within_the_longest():
    assert split(np.array([3, 10, 11]), (4, 11)).with_fewer_lengths(2).lengths == (8, 11)
