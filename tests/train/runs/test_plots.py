"""The picture of a run."""

import struct

import numpy as np
from matplotlib.figure import Figure

from tests.helpers.runs import made_up_rows
from train.runs.plots import plot_run

METRICS = [
    {"step": 10, "train/loss": 1.0, "slope/mlp/act_0": 0.25, "slope/mlp/act_1": 0.5},
    {"step": 10, "validation/loss": 1.0},
    {"step": 20, "train/loss": 0.5, "slope/mlp/act_0": 1.0, "slope/mlp/act_1": 0.5},
]


def test_the_picture_is_a_png_of_every_slope_and_both_forms(tmp_path, monkeypatch):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path: figures.append(self) or save(self, path)
    )
    plot_run(tmp_path / "picture.png", "a title", METRICS, made_up_rows())
    raw = (tmp_path / "picture.png").read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", raw[16:24]) == (1760, 704)
    slopes, sizes = figures[0].axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in slopes.get_lines()}
    assert curves["mlp/act_0  1.00"] == [[10, 0.25], [20, 1.0]]
    assert curves["mlp/act_1  0.50"] == [[10, 0.5], [20, 0.5]]
    points = np.asarray(sizes.collections[0].get_offsets())
    np.testing.assert_allclose(points, [[932_362, 91.0], [407_050, 90.5]])
    assert figures[0].get_suptitle() == "a title"


def test_a_run_of_one_record_and_equal_forms_has_a_picture_too(tmp_path):
    plot_run(tmp_path / "a.png", "a", METRICS[-1:], made_up_rows(0.9, 0.9))
    assert (tmp_path / "a.png").stat().st_size > 1000
