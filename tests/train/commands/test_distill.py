"""`python -m train.distill`: students of finished runs, whatever they are of."""

import dataclasses
import sys
import warnings

import jax
import pytest

import lcjax
from lcjax.tree.paths import leaf_path
from tests.helpers.runs import configured, evaluate_here, prepare
from tests.helpers.tiny_bert import make_folder, texts, write_tsv
from tests.helpers.tiny_text import PLAIN, on_text, write_text
from train import distill
from train.config.base import as_json
from train.config.from_json import booleans_of, config_from_json
from train.engine.metrics_writer import read_metrics
from train.engine.run_directory import create_directory, read_json
from train.runs.command import train_job
from train.runs.conclude import conclude
from train.runs.student import student
from train.tasks.image import presets
from train.tasks.language import presets as language_presets
from train.tasks.text import presets as text_presets
from train.validation import ConfigError

SHORT = {"epochs": 1, "count": 1, "heal_epochs": 0, "protocol": "fit-heal", "dropout": 0.0}


@pytest.mark.parametrize("kind", [presets, text_presets, language_presets])
def test_every_preset_comes_back_from_json(kind):
    for _, config in kind.PRESETS.values():
        changed = dataclasses.replace(config, run=dataclasses.replace(config.run, name="a", seed=3))
        assert config_from_json(config, as_json(changed)) == changed


def test_a_boolean_that_is_not_given_is_the_stored_one():
    preset = configured()
    kept, given = configured(flip=True, seed=3), configured(flip=True)
    default = booleans_of(kept, preset)
    assert not default.data.flip and default.run.seed == 3
    assert booleans_of(default, kept, unless=preset).data.flip  # no flag
    assert booleans_of(given, preset, unless=preset).data.flip  # --flip, not stored


def test_what_is_no_run_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="a is not a run: it has no config.json; expected"):
        student(tmp_path / "a")
    create_directory(tmp_path / "a", {"preset": "gone"})
    with pytest.raises(
        ConfigError, match="a was started with 'gone'; expected a preset of this vers"
    ):
        student(tmp_path / "a")
    monkeypatch.setattr(sys, "argv", ["train.distill", "--epochs", "3"])
    with pytest.raises(SystemExit, match="error: no RUN"):
        distill.main()


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("kind", ["image", "text", "language"])
def test_a_student_has_the_runs_topology_and_learns_from_its_deep_model(
    kind, tmp_path, monkeypatch, capsys
):
    evaluate_here(monkeypatch)
    if kind == "image":
        config = configured(**SHORT, hidden=(32, 16), learning_rate=1e-2, runs_dir=tmp_path)
    elif kind == "text":
        bert = make_folder(tmp_path / "bert")
        data = {"dataset": str(write_tsv(tmp_path / "a.tsv", texts(100))), "lengths": (24,)}
        small = {"pretrained": str(bert), "batch_size": 8, "validation": 0.2, "runs_dir": tmp_path}
        # Which site costs less is a matter of rounding here; without the first little is to learn.
        small["where"] = "block_1*"
        config = configured("sst2-minilm", text_presets.PRESETS, **SHORT | data | small)
    else:
        text = write_text(tmp_path / "a.txt")
        config = on_text(text, "shakespeare-swiglu", **PLAIN | SHORT, runs_dir=tmp_path)
    job = prepare(config)
    create_directory(tmp_path / "deep", as_json(config))
    result = train_job(job, tmp_path / "deep")
    conclude(job.task, result, tmp_path / "deep")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which it replaces
    asked = ["--name", "student", "--epochs", "2", "--log-every", "1", "--teacher-weight", "0.9"]
    asked += ["--runs-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train.distill", str(tmp_path / "deep"), *asked])
    distill.main()
    said = capsys.readouterr().out
    assert "protocol penalty" in said and "raise --strength" not in said
    assert "so there is nothing to collapse" in said
    columns = said.partition("side by side\n\n")[2].partition("\n")[0].split()
    assert columns == ["teacher", "student", "deep's", "compact"]
    summary = read_json(tmp_path / "student" / "summary.json")
    assert summary["beside"].keys() == {"teacher", "deep's compact"}
    teacher = read_json(tmp_path / "deep" / "summary.json")
    assert len(teacher["collapsed"]) == 1 and summary["collapsed"] == []
    student, compact = (
        {leaf_path(keys): leaf.shape for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (lcjax.restore(tmp_path / name / "compact") for name in ("student", "deep"))
    )
    lacking = compact.keys() - student.keys()  # a fit makes a bias where layers had none
    assert student == {path: compact[path] for path in compact if path not in lacking}
    assert lacking == ({"params/block_1/mlp/down/bias"} if kind == "language" else set())
    assert lcjax.find_sites(lcjax.restore(tmp_path / "student/compact")).paths == tuple(
        site["path"] for site in teacher["sites"] if site["path"] not in teacher["collapsed"]
    )
    records = [r for r in read_metrics(tmp_path / "student") if "train/loss" in r]
    assert records[-1]["train/divergence"] < records[0]["train/divergence"]
