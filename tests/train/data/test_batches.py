"""Batches by step: which examples a step sees depends on the seed and its number alone."""

from itertools import islice

import jax
import numpy as np
import pytest

from tests.helpers.prepared import take
from train.data.batches import epoch_order, in_memory
from train.data.images.dataset import load
from train.data.images.stream import stream, streamed
from train.validation import ConfigError

COUNT, BATCH = 47, 4  # eleven batches an epoch, three examples left out
ARRAYS = (np.arange(COUNT * 2).reshape(COUNT, 2), np.arange(COUNT))


def source(steps_per_dispatch, seed=3):
    return in_memory(ARRAYS, BATCH, seed=seed, steps_per_dispatch=steps_per_dispatch)


def steps(source, count, start=0):
    """Returns the labels of each of the next steps, and the lengths of the dispatches."""
    labels, lengths = [], []
    for inputs in source.inputs(start):
        lengths.append(len(inputs))
        labels += [np.asarray(source.fetch(source.arrays, chosen)[1]) for chosen in inputs]
        if len(labels) >= count:
            return np.stack(labels[:count]), lengths


@pytest.mark.parametrize("steps_per_dispatch", [1, 2, 3, 7, 10, 11, 50])
def test_the_length_of_a_dispatch_changes_nothing(steps_per_dispatch):
    ours = source(steps_per_dispatch)
    assert ours.steps_per_epoch == COUNT // BATCH
    labels, lengths = steps(ours, 3 * 11)
    want = np.concatenate([epoch_order(3, epoch, COUNT, BATCH) for epoch in range(3)])
    np.testing.assert_array_equal(labels, want)
    assert max(lengths) <= steps_per_dispatch and max(lengths) - min(lengths) <= 1
    ends = np.cumsum(lengths)
    assert {11, 22, 33} <= set(ends.tolist()), "no dispatch reaches past an epoch"


@pytest.mark.parametrize("start", [0, 1, 4, 10, 11, 12, 27])
def test_it_goes_on_at_any_step(start):
    whole, _ = steps(source(3), 40)
    rest, _ = steps(source(3), 40 - start, start)
    np.testing.assert_array_equal(rest, whole[start:])


def test_dispatches_are_cut_alike_wherever_it_starts():
    """A resumed run then runs the programs that the uninterrupted one ran."""
    _, whole = steps(source(3), 22)
    for done in range(1, len(whole)):
        _, rest = steps(source(3), 22 - sum(whole[:done]), sum(whole[:done]))
        assert rest == whole[done:]


def test_an_epoch_holds_every_example_but_the_remainder_once_and_seeds_differ():
    labels, _ = steps(source(5), 11)
    assert len(set(labels.ravel().tolist())) == 44
    other, _ = steps(source(5, seed=4), 11)
    assert not np.array_equal(labels, other)


def test_a_batch_is_rows_of_every_array():
    ours = source(2)
    pairs, labels = ours.fetch(ours.arrays, next(ours.inputs(0))[0])
    np.testing.assert_array_equal(pairs[:, 0], 2 * labels)
    assert isinstance(pairs, jax.Array)


def test_streamed_batches_are_those_of_the_stream_one_a_dispatch():
    split = load("digits", limit=60).train
    ours = streamed(split, 16, seed=5)
    assert ours.steps_per_epoch == len(split) // 16 == 3
    want = take(stream(split, 16, seed=5), 7)
    for start in (0, 4):
        for got, (images, labels) in zip(islice(ours.inputs(start), 2), want[start:], strict=False):
            assert got[0].shape == (1, 16, 8, 8, 1)
            np.testing.assert_array_equal(got[0][0], images)
            np.testing.assert_array_equal(ours.fetch((), got)[1][0], labels)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: in_memory(ARRAYS, size, seed=0, steps_per_dispatch=1),
        lambda size: streamed(range(COUNT), size, seed=0),
    ],
)
def test_a_batch_larger_than_the_data_is_an_error(make):
    assert make(COUNT).steps_per_epoch == 1
    with pytest.raises(ConfigError, match="--batch-size is 48, but there are only 47 examples"):
        make(COUNT + 1)
