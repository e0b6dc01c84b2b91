"""The benchmark of the noisy cubic: fits, sizes and plot."""

import numpy as np
import pytest

from benchmarks.harness.plots import plot_cubic
from benchmarks.quality.cubic import GRIDS, POINTS, Regulariser, cubic, measure, points


def test_points_depend_on_seed_only():
    x, y = points(3, 200)
    again = points(3, 200)
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(y, again[1])
    assert np.std(y - cubic(x)) == pytest.approx(0.3, rel=0.2)


@pytest.mark.slow
@pytest.mark.promotes
def test_measure_fits_and_collapses_every_regulariser(tmp_path):
    methods = [measure(Regulariser(name, grid[-1]), [0, 1], 200) for name, grid in GRIDS.items()]
    for method in methods:
        assert len(method["error"]) == len(method["curves"]) == 2 and max(method["error"]) < 2
    sizes = {method["method"]: max(method["parameters"]) for method in methods}
    assert sizes["LayerCollapse, L1"] < sizes["plain"] == sizes["weight decay"] == 12_673
    path = plot_cubic(methods, points(0, POINTS), cubic, tmp_path / "a.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
