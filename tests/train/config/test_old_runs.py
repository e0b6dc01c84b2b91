"""Configurations and metadata that earlier versions wrote are still read."""

import json

import pytest

from lcjax.models import GPT2
from train.config.base import as_json
from train.config.from_json import config_from_json
from train.config.protocol import FitHealConfig, PaperConfig, PenaltyProtocolConfig
from train.engine.run_directory import choose_directory, reopen_directory
from train.models.serialization import module_from_json
from train.runs.flags import parse
from train.runs.student import student
from train.tasks.image.model import model_from_json
from train.tasks.image.presets import PRESETS
from train.validation import ConfigError

PRESET = PRESETS["digits-mlp"][1]
# As fit-heal by per-unit moments wrote it, when one section had the fields of all protocols.
PROTOCOL = {
    "protocol": "fit-heal",
    "deep": "runs/deep",
    "fit": "moments",
    "sequential": False,
    "calibration_images": 256,
    "order": "sensitivity",
    "count": 1,
    "target_params": None,
    "max_drop": 0.02,
    "heal_epochs": 0.5,
    "heal_learning_rate": None,
    "deep_teacher": False,
    "teacher": "runs/teacher",
    "teacher_weight": 0.25,
    "teacher_temperature": 2.0,
    "collapsed_from": None,
    "sites_per_stage": 1,
    "stage_epochs": 1.0,
    "ramp_start": 0.01,
    "anneal_fraction": 0.3,
}
PENALTY = {
    "strength": 0.02,
    "penalty": "l1",
    "slope_learning_rate": 0.2,
    "start": 0.0,
    "last": None,
    "where": None,
    "threshold": 0.125,
}


def old_config(**protocol):
    """Returns the object in config.json of an earlier version."""
    new = as_json(PRESET)
    sections = ("preset", "data", "model", "optimizer", "run", "devices")
    old = {section: new[section] for section in sections}
    return old | {"penalty": PENALTY, "protocol": PROTOCOL | protocol}


@pytest.fixture
def runs(tmp_path):
    """A directory with the run `old`, which was interrupted."""
    (tmp_path / "old").mkdir()
    fields = old_config(**{"protocol": "natural", "deep": None, "teacher": None})
    fields["run"] |= {"name": "old", "runs_dir": str(tmp_path)}
    (tmp_path / "old" / "config.json").write_text(json.dumps(fields))
    return tmp_path


def test_config_from_json_reads_all_sections_of_an_old_config():
    config = config_from_json(PRESET, old_config())
    assert config.protocol == FitHealConfig(
        fit="per_unit", calibration_images=256, count=1, heal_epochs=0.5
    )
    assert str(config.init.deep) == "runs/deep" and config.init.collapsed_from is None
    assert str(config.distillation.teacher) == "runs/teacher"
    assert config.distillation.teacher_weight == 0.25
    assert config.penalty.max_gap == 0.125


@pytest.mark.parametrize(
    ("old", "new"), [("natural", PenaltyProtocolConfig), ("reference", PaperConfig)]
)
def test_config_from_json_renames_protocols(old, new):
    assert config_from_json(PRESET, old_config(protocol=old)).protocol == new()


def test_config_from_json_refuses_an_unknown_protocol():
    with pytest.raises(ConfigError, match="--protocol is 'prune'; expected one of penalty, ramp"):
        config_from_json(PRESET, old_config(protocol="prune"))


def test_resume_continues_an_old_run(runs):
    flags = ["--name", "old", "--runs-dir", str(runs), "--resume"]
    config = parse(PRESET, "train.image digits-mlp", None, flags)
    assert config.protocol == PenaltyProtocolConfig() and config.penalty.max_gap == 0.125
    path = choose_directory(config.run, "digits-mlp", as_json(config))
    reopen_directory(path, as_json(config))
    again = parse(PRESET, "train.image digits-mlp", None, flags)
    assert again == config


def test_resume_names_the_changed_flag_of_an_old_run(runs):
    flags = ["--name", "old", "--runs-dir", str(runs), "--resume", "--max-gap", "0.5"]
    config = parse(PRESET, "train.image digits-mlp", None, flags)
    with pytest.raises(ValueError, match="max_gap was 0.125, is 0.5. Resume it without"):
        choose_directory(config.run, "digits-mlp", as_json(config))


def test_student_of_an_old_run_has_its_model(runs):
    config = student(runs / "old")
    assert config.kind == "image" and config.model == PRESET.model
    assert config.distillation.teacher == runs / "old"


def test_model_from_json_reads_gated_blocks():
    fields = as_json(PRESETS["fashion-vit"][1].model)
    del fields["glu"]
    assert model_from_json(fields | {"gated": True}) == model_from_json(fields | {"glu": True})


@pytest.mark.parametrize("glu", [{"gated": True}, {"glu": True}])
def test_module_from_json_reads_gated_blocks(glu):
    sizes = {"vocab_size": 8, "max_length": 4, "depth": 1, "width": 4, "num_heads": 1}
    fields = sizes | {"class": "GPT2", "mlp_hidden": 4, "activation": "silu", "dtype": None}
    assert isinstance(module_from_json(fields | glu), GPT2)
    assert module_from_json(fields | glu) != module_from_json(fields)
