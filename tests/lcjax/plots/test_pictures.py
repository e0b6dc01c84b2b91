"""Pictures: their files, their colours, their labels, and what a notebook shows."""

import re

import numpy as np
import pytest

from lcjax.plots import picture
from lcjax.plots.front import Front, plot_fronts
from lcjax.plots.labels import spread
from lcjax.plots.network import Block, plot_network
from lcjax.plots.steps import Step, plot_steps

pytest.importorskip("matplotlib", reason="extra plots")

BLOCKS = [
    Block("block_0/act", 64, 64, "kept", "64"),
    Block("block_1/act", 64, 16, "narrowed", "16 of 64 units"),
    Block("block_2/act", 32, 0, "linear", "one matrix"),
    Block("block_3/act", 32, 0, "removed", "removed"),
]


def texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.fixture(scope="module")
def network():
    return plot_network(BLOCKS, (9_000, 1_000))


@pytest.mark.parametrize(
    ("suffix", "starts"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_a_picture_is_saved_by_its_suffix_and_the_same_each_time(network, suffix, starts, tmp_path):
    for name in "ab":
        network.save(tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first.startswith(starts) and first == second


def test_a_picture_of_another_suffix_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match="got the suffix '', expected one of .svg, .png, .pdf"):
        network.save(tmp_path / "picture")
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_the_picture_as_svg(network):
    shown = network._repr_svg_()
    assert shown.startswith("<svg") and shown.rstrip().endswith("</svg>")


def test_the_network_has_a_block_for_each_mlp_before_and_after(network):
    before, after = network.figure.axes
    assert [bar.get_width() for bar in before.patches] == [64, 64, 32, 32]
    assert [bar.get_width() for bar in after.patches] == [64, 64, 16, 32, 0, 32, 0]
    assert texts(before) == ["64", "64", "32", "32"]
    assert texts(after) == [block.became for block in BLOCKS]
    assert [label.get_text() for label in before.get_yticklabels()] == [b.name for b in BLOCKS]
    assert before.get_title(loc="left") == "before: 9,000 parameters"
    assert after.get_title(loc="left") == "after: 1,000 parameters"


def test_a_plan_has_a_row_for_each_step():
    steps = [Step("deep", 0.9, 900, True), Step("a", 0.8, 90, True), Step("b", 0.1, 9, False)]
    metric, size = plot_steps(steps, "budget").figure.axes
    assert [bar.get_width() for bar in size.patches] == [900, 90, 9]
    assert texts(metric) == ["0.9", "0.8", "0.1"] and texts(size) == ["900", "90", "9"]
    assert [label.get_text() for label in metric.get_yticklabels()][2] == "b (not taken)"


def test_a_front_names_its_points():
    front = Front("parameters", [(10, 0.5), (90, 0.0)], [(11, 0.4)], (10, 0.5), (100, 0.0))
    (axes,) = plot_fronts([front], "accuracy").figure.axes
    assert texts(axes) == ["deep", "chosen, predicted", "measured"]
    assert axes.get_xlabel() == "parameters" and "drop of accuracy" in axes.get_ylabel()


def test_every_picture_has_labelled_axes(network):
    steps = plot_steps([Step("deep", 0.9, 900, True)], "budget")
    front = plot_fronts([Front("ms", [(1, 0)], [], (1, 0), (1, 0))], "accuracy")
    for shown in (network, steps, front):
        assert all(axes.get_xlabel() for axes in shown.figure.axes)
        assert shown.figure.axes[0].get_ylabel()


@pytest.mark.parametrize("name", ["INK", "BLUE", "ORANGE", "GREEN", "PURPLE", "RED"])
@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_colours_can_be_read_on_light_and_dark_pages(name, page):
    low, high = sorted(map(_luminance, (getattr(picture, name), page)))
    assert (high + 0.05) / (low + 0.05) >= 3


def _luminance(colour):
    """Returns the relative luminance of WCAG 2.1."""
    parts = np.array([int(each, 16) / 255 for each in re.findall("..", colour[1:])])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("places", [[0.0], [1.0, 1.0, 1.0], [3.0, 0.0, 0.1, 0.2], [0.0, 9.0, 4.5]])
def test_spread_keeps_the_order_and_the_distance(places):
    found = np.array(spread(places, 1.0))
    order = np.argsort(places, kind="stable")
    assert np.all(np.diff(found[order]) >= 1 - 1e-9)
    assert np.mean(found) == pytest.approx(np.mean(places))


def test_pictures_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(
        ImportError, match=r"Pictures need matplotlib: pip install 'lcjax\[plots\]'"
    ):
        plot_steps([Step("deep", 0.9, 900, True)], "budget")
