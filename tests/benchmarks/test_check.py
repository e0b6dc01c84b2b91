"""The comparison of ratios with stored ones."""

import json

import pytest

from benchmarks import check
from benchmarks.check import judge, main


@pytest.fixture
def ratios(monkeypatch):
    """One ratio, whose measurements are taken from a list."""
    values = []
    monkeypatch.setattr(check, "RATIOS", {"one / other": lambda rounds: values.pop(0)})
    return values


def test_ratio_fails_only_above_the_spread_three_times_in_a_row():
    def of(*values):
        left = list(values)
        verdict = judge("one / other", [1.0, 1.1, 1.2], lambda: left.pop(0))
        return verdict.outcome, left

    assert of(1.15) == ("as before", [])
    assert of(1.3, 1.19, 9) == ("as before", [9])
    assert of(1.3, 1.4, 1.25) == ("slower", [])
    assert of(0.9) == ("faster", [])


def test_stored_ratios_are_compared(ratios, tmp_path, capsys):
    ratios += [0.5, 0.7, 0.6]
    main(store=True, repeats=3, results_dir=tmp_path)
    record = json.loads((tmp_path / "check.json").read_text())
    assert record["results"] == {"one / other": [0.5, 0.7, 0.6]}
    ratios += [0.65]
    main(results_dir=tmp_path)
    shown = capsys.readouterr().out
    assert "0.650" in shown and "0.500 to 0.700" in shown and "as before" in shown
    ratios += [0.8, 0.9, 0.75]
    with pytest.raises(SystemExit, match="slower than all stored ratios: one / other"):
        main(results_dir=tmp_path)


def test_ratios_of_another_machine_or_set_are_refused(ratios, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="got no file of stored ratios; store them"):
        main(results_dir=tmp_path)
    ratios += [0.5]
    main(store=True, repeats=1, results_dir=tmp_path)
    monkeypatch.setattr(check, "RATIOS", {"another": lambda rounds: 1.0})
    with pytest.raises(SystemExit, match="got other ratios than another"):
        main(results_dir=tmp_path)
    here = check.machine() | {"cores": 999}
    monkeypatch.setattr(check, "machine", lambda: here)
    with pytest.raises(SystemExit, match="got ratios of a machine with cores .*, expected 999"):
        main(results_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("name", check.RATIOS)
def test_every_ratio_is_measured(name):
    assert 0.05 < check.RATIOS[name](2) < 50
