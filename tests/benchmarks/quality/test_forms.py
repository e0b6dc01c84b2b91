"""Forms against baselines: runs start from known runs, and untrained and healed rows are apart."""

import json

import pytest

from benchmarks.baselines.registry import BASELINES, OURS, REGISTRY
from benchmarks.form_networks import NETWORKS, QUICK_NETWORKS
from benchmarks.quality import forms

ALL = NETWORKS | QUICK_NETWORKS


@pytest.mark.parametrize("name", ALL)
def test_runs_start_from_the_deep_run_or_from_a_size(name):
    network = ALL[name]
    deep = network.deep.run
    assert network.without.keys() <= BASELINES.keys()
    for count in network.counts:
        source = network.source(count).run
        assert source.needs == (deep.name,)
        for method in REGISTRY:
            runs = [forms.untrained_run(network, count, method)]
            runs += map(forms.healed_runs(network, count, method).run, network.rates)
            assert all(run.needs == (source.name,) and method in run.arguments for run in runs)
            assert len({run.name for run in runs}) == 1 + len(network.rates)


def test_rates_are_one_grid_of_three_for_every_way():
    assert all(len(network.rates) == 3 for network in NETWORKS.values())
    assert not OURS.keys() & BASELINES.keys()


def test_results_have_untrained_and_healed_tables(tmp_path, monkeypatch):
    def summary(name):
        form = {"validation": {"accuracy": 0.8}, "test": {"accuracy": 0.7}, "parameters": 100}
        if "1e-3" in name:
            form["validation"] = {"accuracy": 0.9}
        costs = {"flops_per_image": 4.0, "latency_ms": {"1": 1.0, "32": 4.0}}
        rows = {"deep": form | costs, "compact": form | costs}
        return {"metric": "accuracy", "collapsed": ["a"], **rows}

    def run_all(runs, names, *, seeds, runs_dir):
        known = {run.name for run in runs}
        assert set(names) <= known
        return {name: [summary(name)] * len(seeds) for name in names}

    monkeypatch.setattr(forms, "run_all", run_all)
    monkeypatch.setattr("benchmarks.harness.tuning.run_all", run_all)
    methods = ("linear", "variance", "blocks")
    forms.main(("fashion-mlp",), methods, seeds=(0, 1), runs_dir=tmp_path, results_dir=tmp_path)
    results = json.loads((tmp_path / "forms-fashion-mlp.json").read_text())["results"]
    assert [each.get("rate") for each in results if each.get("state") == "healed"] == ["1e-3"] * 4
    assert sum("skipped" in each for each in results) == 2
    text = (tmp_path / "forms-fashion-mlp.md").read_text()
    for state in ("untrained", "healed"):
        assert f"fashion-mlp, size of 2 collapsed sites, {state}" in text
    assert "the network has no blocks" in text and "70.00 ± 0.00" in text


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="no such networks: resnet; there are fashion-mlp, "):
        forms.main(("resnet",), runs_dir=tmp_path, results_dir=tmp_path)
    with pytest.raises(SystemExit, match="no such methods: obs; there are linear, units, plan, "):
        forms.main(methods=("obs",), runs_dir=tmp_path, results_dir=tmp_path)
