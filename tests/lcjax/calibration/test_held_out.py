"""Rows held out are known to the host and on the device alike, as many in every batch."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lcjax.calibration.held_out import Rows, is_held_out, rows_held_out


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 2**33),
    rows=st.integers(1, 300),
    holdout=st.floats(0.01, 0.9),
    each=st.integers(1, 5),
)
def test_places_are_those_of_the_tokens_held_out(start, rows, holdout, each):
    found = rows_held_out(start, rows, holdout)
    batch = Rows(np.uint32(start % 2**32), rows, holdout, found)
    places = np.asarray(batch.places(rows * each))
    np.testing.assert_array_equal(
        places[places >= 0], np.flatnonzero(np.asarray(batch.out(rows * each)))
    )
    assert len(found) == min(rows, math.ceil(rows * holdout) + 2)  # one shape for all batches


def test_about_the_share_of_all_rows_is_held_out():
    assert is_held_out(np.arange(10_000, dtype=np.uint32), 0.1).sum() == 1000


def test_places_are_unknown_where_tokens_are_no_multiple_of_rows():
    known = rows_held_out(0, 8, 0.5)
    assert Rows(np.uint32(0), 8, 0.5, known).places(12) is None
    assert Rows(np.uint32(0), 8, 0.5, None).places(16) is None
