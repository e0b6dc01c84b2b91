"""Forms against baselines: runs start from known runs, and untrained and healed rows are apart."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import form_comparison as comparison
from benchmarks.baselines.registry import BASELINES, OURS
from benchmarks.form_networks import NETWORKS, QUICK_NETWORKS
from benchmarks.quality import forms
from train.runs.flags import parse
from train.tasks.modalities import MODALITIES

ALL = NETWORKS | QUICK_NETWORKS


@pytest.mark.parametrize("name", ALL)
def test_sizes_start_from_the_deep_run(name):
    network = ALL[name]
    assert network.without.keys() <= BASELINES.keys()
    for count in network.counts:
        assert network.source(count).run.needs == (network.deep.run.name,)


def test_methods_left_out_have_a_reason():
    network = dataclasses.replace(NETWORKS["fashion-mlp"], counts_of={"plan": (2, 3)})
    assert network.why_not("blocks", 2) == "the network has no blocks"
    assert network.why_not("plan", 1) == "compared at 2 and 3 sites only"
    assert network.why_not("plan", 3) is None and network.why_not("units", 1) is None


@pytest.mark.parametrize("name", ALL)
def test_commands_of_runs_are_accepted_and_heal_with_the_deep_teacher(name, tmp_path):
    network = ALL[name]
    for method in (network.deep, *map(network.source, network.counts)):
        module, preset, *flags = method.run.command_line(lambda run: tmp_path / run)
        kind = module.removeprefix("train.").replace("sentiment", "text")
        presets = MODALITIES[kind].presets
        config = parse(presets[preset][1], module, None, flags)
        if method != network.deep:
            assert config.protocol.deep_teacher or name in QUICK_NETWORKS


def test_rates_are_one_grid_of_three_for_every_way():
    assert all(len(network.rates) == 3 for network in NETWORKS.values())
    assert not OURS.keys() & BASELINES.keys()


def scores(accuracy):
    return {split: {"accuracy": accuracy} for split in ("validation", "test")}


def test_results_have_untrained_and_healed_tables(tmp_path, monkeypatch):
    costs = {"flops_per_image": 4.0, "latency_ms": {"1": 1.0, "32": 4.0}, "parameters": 100}
    forms_of = {"metric": "accuracy", "collapsed": ["a"], "deep": costs, "compact": costs}
    asked = []

    def run_all(runs, names, *, seeds, runs_dir):
        assert set(names) <= {run.name for run in runs}
        summary = forms_of | {"compact": costs | scores(0.9)}
        return {name: [summary] * len(seeds) for name in names}

    def run_logged(module, arguments, log):
        """Writes rows as the comparison does; the second of three rates is the best."""
        _, *texts, _, out, _, _, _, seed = arguments
        methods = comparison.parse_methods(texts)
        asked.append((int(seed), {name: len(rates) for name, rates in methods.items()}))
        rows = {
            name: forms_of
            | {
                "untrained": scores(0.7),
                "healed": {r: scores(0.8 + (r == "1e-3") / 20) for r in rates},
            }
            for name, rates in methods.items()
        }
        Path(out).write_text(json.dumps(rows))

    monkeypatch.setattr(forms, "run_all", run_all)
    monkeypatch.setattr(forms, "run_logged", run_logged)
    methods = ("linear", "variance", "blocks")
    for _ in range(2):  # the second time nothing is left to run
        forms.main(("fashion-mlp",), methods, seeds=(0, 1), runs_dir=tmp_path, results_dir=tmp_path)
    whole, best = ({"linear": count, "variance": count} for count in (3, 1))
    assert asked == [(0, whole), (1, best)] * 2  # at both sizes
    results = json.loads((tmp_path / "forms-fashion-mlp.json").read_text())["results"]
    assert [each.get("rate") for each in results if each.get("state") == "healed"] == ["1e-3"] * 4
    assert sum("skipped" in each for each in results) == 2
    text = (tmp_path / "forms-fashion-mlp.md").read_text()
    for state in ("untrained", "healed"):
        assert f"fashion-mlp, size of 2 collapsed sites, {state}" in text
    assert "the network has no blocks" in text
    assert "70.00 ± 0.00" in text and "85.00 ± 0.00" in text


def test_forms_of_equal_time_have_a_table_of_their_own():
    point = {"metric": "accuracy", "parameters": [100], "time_ratio": [None], "test": [{}]}
    point |= {split: [{"accuracy": 0.9}] for split in ("validation", "test")}
    deep, more = point | {"method": "deep"}, {"sites": 1, "state": "healed", "rate": "1e-3"}
    low_rank = point | more | {"method": BASELINES["whitened"].title}
    timed = point | more | {"method": OURS["plan-time"].title}
    timed["times"] = [{"low rank": 0.5, "plan": 0.49}]
    network = dataclasses.replace(NETWORKS["fashion-mlp"], counts=(1,))
    *_, healed, equal = (each.text() for each in forms.tables(network, [deep, low_rank, timed]))
    assert OURS["plan-time"].title not in healed and "low rank" in healed
    assert "49.0" in equal and "50.0" in equal and "in the time of low rank" in equal


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="no such networks: resnet; there are fashion-mlp, "):
        forms.main(("resnet",), runs_dir=tmp_path, results_dir=tmp_path)
    with pytest.raises(SystemExit, match="no such methods: obs; there are linear, units, plan, "):
        forms.main(methods=("obs",), runs_dir=tmp_path, results_dir=tmp_path)
