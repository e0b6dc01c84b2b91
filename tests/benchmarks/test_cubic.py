"""The benchmark of the noisy cubic: what it fits and what it counts."""

import numpy as np
import pytest

from benchmarks.cubic import GRIDS, POINTS, Way, cubic, measured, points
from benchmarks.cubic_picture import draw


def test_noise_is_the_seeds_own():
    x, y = points(3, 200)
    again = points(3, 200)
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(y, again[1])
    assert np.std(y - cubic(x)) == pytest.approx(0.3, rel=0.2)


@pytest.mark.slow
def test_every_way_is_fitted_collapsed_and_drawn(tmp_path):
    ways = [measured(Way(name, grid[-1]), [0, 1], 200) for name, grid in GRIDS.items()]
    for way in ways:
        assert len(way["error"]) == len(way["curves"]) == 2 and max(way["error"]) < 2
    sizes = {way["method"]: max(way["parameters"]) for way in ways}
    assert sizes["LayerCollapse, L1"] < sizes["plain"] == sizes["weight decay"] == 12_673
    path = draw(ways, points(0, POINTS), cubic, tmp_path / "a.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
