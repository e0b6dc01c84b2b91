"""The benchmark of the devices present, on those that run the tests."""

import json

import pytest

from benchmarks.cost import accelerator


@pytest.mark.slow
@pytest.mark.promotes
def test_main_times_tiny_networks_without_known_peak(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(accelerator, "PEAKS", {})
    accelerator.main(preset="tiny", rounds=2, results_dir=tmp_path)
    (path,) = tmp_path.glob("accelerator-*.json")
    vit, gpt2 = json.loads(path.read_text())["results"]
    for found in (vit, gpt2):
        assert 0 < found["compact"]["flops"] < found["deep"]["flops"]
        assert found["deep"]["seconds"] > 0 and found["deep"]["share_of_peak"] is None
    assert gpt2["deep"]["units_per_second"] * gpt2["deep"]["seconds"] == pytest.approx(2 * 64)
    assert "tokens" in capsys.readouterr().out
