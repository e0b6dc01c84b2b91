"""Rows held out are known to the host and on the device alike, as many in every batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcjax.calibration.held_out import Rows, is_held_out, padded_places


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 2**33),
    rows=st.integers(1, 300),
    holdout=st.floats(0.01, 0.9),
    each=st.integers(1, 5),
)
def test_places_are_those_of_the_tokens_held_out(start, rows, holdout, each):
    found = padded_places(start, rows, holdout)
    batch = Rows(np.uint32(start % 2**32), rows, holdout, found)
    places = np.asarray(batch.places(rows * each))
    np.testing.assert_array_equal(
        places[places >= 0], np.flatnonzero(np.asarray(batch.out(rows * each)))
    )


@pytest.mark.parametrize("holdout", [0.1, 0.25])
@pytest.mark.parametrize("rows", [1, 32, 128, 2048, 16384])
def test_all_batches_have_as_many_places(rows, holdout):
    lengths = {len(padded_places(start, rows, holdout)) for start in range(0, 300 * rows, rows)}
    assert len(lengths) == 1
    assert lengths.pop() <= rows * holdout + 8


def test_about_the_share_of_all_rows_is_held_out():
    assert is_held_out(np.arange(10_000, dtype=np.uint32), 0.1).sum() == 1000


def test_places_are_unknown_where_tokens_are_no_multiple_of_rows():
    known = padded_places(0, 8, 0.5)
    assert Rows(np.uint32(0), 8, 0.5, known).places(12) is None
    assert Rows(np.uint32(0), 8, 0.5, None).places(16) is None
