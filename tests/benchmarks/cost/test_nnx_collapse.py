"""The benchmark of `lcjax.nnx.collapse`."""

import pytest

from benchmarks.cost.nnx_collapse import collapse_seconds


@pytest.mark.slow
def test_parts_of_a_collapse_are_timed():
    seconds = collapse_seconds(layers=2, rounds=1)
    assert set(seconds) == {"jax", "trace", "surgery", "whole", "beyond"}
    assert all(value > 0 for name, value in seconds.items() if name != "beyond")
