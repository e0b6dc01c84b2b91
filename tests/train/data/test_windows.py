"""A text as windows: every token told once, and epochs that depend on their number alone."""

import numpy as np
import pytest

from train.data.text.windows import Windows, check_length, packed, window_batches
from train.validation import ConfigError

TEXT = np.arange(100, 147, dtype=np.int32)


@pytest.mark.parametrize(
    ("count", "context", "stride"), [(47, 8, 8), (47, 8, 4), (47, 8, 3), (47, 8, 1), (9, 8, 4)]
)
def test_every_token_but_the_first_is_told_once_from_what_is_before_it(count, context, stride):
    split = Windows(TEXT[:count], context, stride)
    told = []
    for inputs, labels in window_batches(split, 3):
        assert inputs.shape == labels.shape == (3, context)
        for row, after in zip(inputs, labels, strict=True):
            for i in np.flatnonzero(after >= 0):
                told.append(int(after[i]))
                at = after[i] - 100
                assert row[: i + 1].tolist() == TEXT[at - i - 1 : at].tolist()
                assert i + 1 > context - stride or row[0] == 100, "less before it than is stated"
    assert told == TEXT[1:count].tolist()


def test_a_choice_of_windows_is_theirs():
    split = Windows(TEXT, 8, 4)
    some = split.take(np.array([1, 3])).take(np.array([1]))
    assert len(some) == 1
    for ours, theirs in zip(some.batch(np.arange(1)), split.batch(np.array([3])), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def steps(source, start, count):
    """Returns the batches of so many dispatches from a step on."""
    found, inputs = [], source.inputs(start)
    for _ in range(count):
        found += [source.fetch(source.arrays, step) for step in next(inputs)]
    return [tuple(np.asarray(each) for each in batch) for batch in found]


def test_an_epoch_takes_windows_next_to_each_other_from_a_place_of_its_own():
    source = packed(TEXT, 5, 2, seed=0, steps_per_dispatch=3)
    assert source.steps_per_epoch == (47 - 5) // 5 // 2
    places = set()
    for epoch in range(6):
        batches = steps(source, 4 * epoch, 2)
        assert len(batches) == 4
        starts = sorted(int(row[0]) - 100 for inputs, _ in batches for row in inputs)
        assert {(b - a) % 5 for a, b in zip(starts, starts[1:], strict=False)} == {0}
        assert len(set(starts)) == 8
        places.add(starts[0] % 5)
        for inputs, labels in batches:
            np.testing.assert_array_equal(labels, inputs + 1)
    assert len(places) > 1


def test_a_step_depends_on_seed_and_number_alone():
    whole = steps(packed(TEXT, 5, 2, seed=1, steps_per_dispatch=2), 0, 4)
    again = steps(packed(TEXT, 5, 2, seed=1, steps_per_dispatch=4), 5, 1)
    np.testing.assert_array_equal(whole[5][0], again[0][0])
    other = steps(packed(TEXT, 5, 2, seed=2, steps_per_dispatch=4), 5, 1)
    assert not np.array_equal(whole[5][0], other[0][0])


def test_texts_that_are_too_short_are_an_error():
    with pytest.raises(ConfigError, match="--batch-size is 9, but there are only 8 examples"):
        packed(TEXT, 5, 9, seed=0, steps_per_dispatch=1)
    with pytest.raises(ConfigError, match="--context is 47, but the text to validate has only 47"):
        check_length(TEXT, 47, "validate")
    check_length(TEXT, 46, "validate")
