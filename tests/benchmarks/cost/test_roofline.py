"""The roofline of a small network."""

import json

import pytest

from benchmarks.cost.roofline.__main__ import main


@pytest.mark.slow
def test_roofline_allows_no_more_than_its_operations(tmp_path):
    main(networks=("Fashion-MNIST Mixer",), rounds=3, results_dir=tmp_path)
    rows = json.loads((tmp_path / "roofline.json").read_text())["results"]
    assert [row["batch"] for row in rows] == [128, 1]
    for row in rows:
        assert row["promised"] == pytest.approx(1.59, abs=0.01)
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert sum(row["bound_shares"].values()) == pytest.approx(1)
    full, single = rows
    assert single["bound_shares"]["starts"] > full["bound_shares"]["starts"]
    table = (tmp_path / "roofline.md").read_text()
    assert "measured / possible" in table and "Fashion-MNIST Mixer" in table


def test_unknown_network_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="no such network: digits; there are Fashion-MNIST Mixer"):
        main(networks=("digits",), results_dir=tmp_path)
