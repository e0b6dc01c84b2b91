"""Counts of units that fit the tiles of a device."""

import pytest

from lcjax import CollapseError
from lcjax.calibration.counts import multiple_for, rounded_count


@pytest.mark.parametrize(
    ("count", "multiple", "width", "expected"),
    [(200, 64, 1536, 192), (128, 128, 1536, 128), (9, 8, 50, 8), (50, 64, 50, 50), (99, 8, 50, 50)],
)
def test_counts_round_down_to_a_multiple_or_are_all_units(count, multiple, width, expected):
    assert rounded_count(count, multiple, width) == expected


def test_a_multiple_that_leaves_none_is_refused():
    with pytest.raises(CollapseError, match=r"50 of 1,536 units: leave none in multiples of 64"):
        rounded_count(50, 64, 1536)


@pytest.mark.parametrize(("count", "multiple"), [(0, 8), (8, 0)])
def test_counts_and_multiples_are_at_least_1(count, multiple):
    with pytest.raises(ValueError, match="expected at least 1 of both"):
        rounded_count(count, multiple, 16)


def test_multiples_by_platform():
    assert [multiple_for(p) for p in ("tpu", "gpu", "cpu", "unheard")] == [128, 64, 8, 8]
