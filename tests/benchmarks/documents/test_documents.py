"""The tables of README and of the documentation are those of benchmarks/results."""

import json
import statistics
from collections import Counter

import pytest

from benchmarks.documents.__main__ import ROOT, TABLES, documents, updated
from benchmarks.documents.index import index
from benchmarks.documents.quality import OTHERS, overview
from benchmarks.documents.results import results
from benchmarks.documents.settings import costs


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_document_shows_the_results(path):
    text = path.read_text(encoding="utf-8")
    assert updated(text) == text, "run python -m benchmarks.documents"


def test_every_table_is_shown_somewhere():
    text = "".join(path.read_text(encoding="utf-8") for path in documents())
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in text] == []


def test_marker_without_a_table_is_an_error():
    with pytest.raises(ValueError, match="no table is called 'nothing'"):
        updated("<!-- table: nothing -->\n<!-- end of table -->\n")


def test_text_outside_of_markers_stays():
    text = "before\n<!-- table: depth -->\nold\n<!-- end of table -->\nafter\n"
    new = updated(text)
    assert new.startswith("before\n") and new.endswith("after\n") and "old" not in new
    assert updated(new) == new


def test_overview_compares_models_of_equal_size_only():
    row = overview("").rows[3]  # the published method's smallest network is not among them
    assert (
        row[0] == "CIFAR-10 Mixer" and "(annealed, teacher)" in row[2] and "(distilled)" in row[3]
    )


def test_readme_counts_networks_on_which_slopes_are_ahead():
    found = Counter(_outcome(title, each) for title, each in results("summary").items())
    assert found == {"beats": 2, "ties": 2, "loses": 2}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "beats other methods on two networks, ties on two, loses on two" in text


def _outcome(title, found):
    """Compares the best of slopes and of other methods at one size: beyond the deviation, by seed.

    A network on which slopes alone reach no such size is lost.
    """
    sign = -1 if title.endswith("perplexity") else 1
    limit = 1.01 * statistics.mean(found["fitted"]["sizes"])

    def best(names):
        own = [found[name] for name in names if name in found]
        scores = [each["scores"] for each in own if statistics.mean(each["sizes"]) <= limit]
        return max(scores, key=lambda each: sign * statistics.mean(each), default=())

    slopes = best(("penalty", "annealed"))
    if not slopes:
        return "loses"
    ahead = [sign * (a - b) for a, b in zip(slopes, best(OTHERS), strict=True)]
    if abs(statistics.mean(ahead)) <= statistics.stdev(ahead):
        return "ties"
    return "beats" if statistics.mean(ahead) > 0 else "loses"


def test_costs_name_the_folder_that_was_collapsed():
    (row,) = (row for row, _ in costs().rows if "collapse-model" in row)
    assert "32 layers of Llama-3.1-8B, 16.1 GB" in row  # as folder_collapse.md


def test_index_adds_the_times_up(tmp_path):
    for name, about in {
        "inference": {"commit": "1" * 40, "seconds": 1800.0},
        "images": {"commit": "2" * 40 + "-dirty", "seconds": 5400.0},
        "sweeps": {},
        "unit_slopes": {"seconds": 7200.0},  # by name only
        "forms-sst2-minilm": {"seconds": 7200.0},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"date": "2026-11-28"} | about))
    found = {row[0]: row[2] for row in index(tmp_path).rows}
    assert found["`python -m benchmarks images`"] == (
        "[images](results/images.json) (2026-11-28, commit 222222222-dirty, 90 min)"
    )
    assert found["`python -m benchmarks sweeps`"] == "[sweeps](results/sweeps.json) (2026-11-28)"
    # images is one of two at once
    assert found["`make bench`"] == "75 min (of 2 of 3)"
