"""Configurations that start from finished runs."""

import dataclasses
from pathlib import Path

from train.config.base import Config, InitConfig
from train.config.from_json import config_from_json
from train.config.protocol import FitHealConfig, convert_protocol
from train.engine.run_directory import CONFIG, read_json
from train.runs.student import student


def fit_heal_settings(config: Config) -> FitHealConfig:
    """Returns the settings of a configuration of the protocol fit-heal."""
    assert isinstance(config.protocol, FitHealConfig)
    return config.protocol


def fit_heal_config(run: Path) -> Config:
    """Returns the configuration of fit-heal on a finished run's deep model, with its healing.

    Raises:
      ConfigError: if it is not a run, or its configuration is damaged.
    """
    config = student(run)  # which checks that it is a run
    stored = read_json(run / CONFIG)
    sections = {name: stored[name] for name in ("protocol", "distillation") if name in stored}
    config = config_from_json(config, sections)
    return dataclasses.replace(
        config,
        protocol=convert_protocol(config.protocol, "fit-heal"),
        init=InitConfig(deep=run),
        distillation=dataclasses.replace(config.distillation, teacher=None),
    )
