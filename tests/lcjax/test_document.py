"""What a notebook shows of results, and how a site is looked up."""

from html.parser import HTMLParser

import flax.linen as nn
import jax
import pytest

import lcjax
from lcjax._document import Document, Table


@pytest.fixture(scope="module")
def made():
    model = lcjax.CollapsibleMLP((16, 16, 3), nn.relu)
    x = jax.random.normal(jax.random.key(0), (64, 4))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    stats = lcjax.calibrate(jax.jit(model.apply), variables, [x])
    compact, report = lcjax.collapse(variables, fit=lcjax.Exact(max_gap=1))
    plan = lcjax.plan(
        None, variables, lambda v: 0.5, budget=lcjax.Count(1), fit=lcjax.Exact(max_gap=1)
    )
    cost = lcjax.sensitivity(None, variables, lambda v: 0.5, fit=lcjax.Exact(max_gap=1))
    return lcjax.find_sites(variables), stats, report, plan, cost


class _Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.cells = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.cells.append(data)


def test_a_notebook_shows_what_print_does(made):
    for shown in made:
        cells = _Cells(shown._repr_html_()).cells
        assert " ".join(" ".join(cells).split()) == " ".join(
            " ".join(line.split()) for line in str(shown).split("\n") if not set(line) <= {"─"}
        )
        assert "color" not in shown._repr_html_()  # those of the page, light or dark


def test_html_of_names_from_files_is_escaped():
    class Made(Document):
        def _parts(self):
            return [Table(("<b>",), [("<script>\x1b",)]), "a < b"]

    text = Made()._repr_html_()
    assert "<script>" not in text and "&lt;script&gt;" in text and "\x1b" not in text
    assert "a &lt; b" in text


def test_sites_are_found_by_path_number_and_glob(made):
    sites = made[0]
    assert sites["act_1"] is sites[1] and "act_1" in sites and sites[0] in sites
    assert "act_7" not in sites and sites[1:].paths == ("act_1",) == sites.matching("*_1").paths
    assert isinstance(sites[1:], lcjax.Sites) and repr(sites) == "<Sites: act_0, act_1>"
    with pytest.raises(KeyError, match="'act_7' is the path of no site. The sites are: act_0"):
        sites["act_7"]
    with pytest.raises(lcjax.CollapseError, match="matches no site"):
        sites.matching("block_*")


def test_the_repr_of_a_calibration_is_short(made):
    assert repr(made[1]) == "<Calibration of act_0, act_1: LeastSquares(), 58 tokens to fit on>"
    assert "tokens" not in repr(jax.eval_shape(lambda: made[1]))


def test_the_picture_of_a_report_shows_every_site(made, tmp_path):
    pytest.importorskip("matplotlib", reason="extra plots")
    picture = made[2].plot(tmp_path / "network.svg")
    after = picture.figure.axes[1]
    assert [text.get_text() for text in after.texts] == ["one matrix", "one matrix"]
    assert (tmp_path / "network.svg").read_text().startswith("<?xml")
