"""Configurations that start from finished runs, which an earlier version may have made."""

import json

from benchmarks.harness.finished_runs import fit_heal_config
from tests.train.config.test_old_runs import old_config
from train.config.base import InitConfig
from train.config.protocol import FitHealConfig


def test_fit_heal_config_keeps_the_settings_of_an_old_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(old_config(heal_epochs=1.5)))
    config = fit_heal_config(tmp_path)
    assert config.protocol == FitHealConfig(
        fit="per_unit", calibration_images=256, count=1, heal_epochs=1.5
    )
    assert config.init == InitConfig(deep=tmp_path)
    assert config.distillation.teacher is None and config.distillation.teacher_weight == 0.25
