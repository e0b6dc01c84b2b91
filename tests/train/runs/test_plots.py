"""The picture of a run."""

import pytest
from matplotlib.figure import Figure

from tests.helpers.runs import made_up_rows
from train.runs.plots import plot_run

METRICS = [
    {"step": 10, "train/loss": 1.0, "slope/a": 0.25, "slope/b": 0.5, "slope/c": 0.0},
    {"step": 10, "validation/loss": 1.0},
    {"step": 20, "train/loss": 0.5, "slope/a": 1.0, "slope/b": 0.75, "slope/c": 0.0},
]


@pytest.fixture
def figures(monkeypatch):
    found, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kw: found.append(self) or save(self, *args, **kw)
    )
    return found


def _texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_picture_has_every_slope_that_moved_and_a_bar_for_each_form(tmp_path, figures):
    kept = [{"step": 15, "parameters": 700_000, "test": {"accuracy": 0.9}}]
    plot_run(tmp_path / "picture.png", "a title", METRICS, made_up_rows(), kept)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    slopes, sizes = figures[0].axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in slopes.get_lines()}
    assert curves["a"] == [[10, 0.25], [20, 1.0]] and curves["b"] == [[10, 0.5], [20, 0.75]]
    assert "c" not in curves and "unchanged at 0.00: c" in slopes.get_title(loc="left")
    assert _texts(slopes) == ["a  1.00", "b  0.75"]
    assert [bar.get_width() for bar in sizes.patches] == [932_362, 700_000, 407_050]
    assert [label.get_text() for label in sizes.get_yticklabels()][1] == "step 15"
    assert _texts(sizes)[0] == "932,362\n91.00 %"
    assert figures[0].get_suptitle() == "a title"


def test_the_picture_shows_the_loss_where_no_slope_moved(tmp_path, figures):
    records = [record | {"slope/a": 0.0, "slope/b": 0.0} for record in METRICS]
    plot_run(tmp_path / "a.png", "a", records, made_up_rows())
    (line,) = figures[0].axes[0].get_lines()
    assert line.get_xydata().tolist() == [[10, 1.0], [20, 0.5]]


def test_a_run_of_one_record_and_equal_forms_has_a_picture_too(tmp_path):
    plot_run(tmp_path / "a.png", "a", METRICS[-1:], made_up_rows(0.9, 0.9))
    assert (tmp_path / "a.png").stat().st_size > 1000
