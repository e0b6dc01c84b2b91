"""The configuration of a student of a finished run."""

import dataclasses
from pathlib import Path
from typing import Any

from lcjax._messages import printable
from train.config.base import Config, DataConfig, DistillationConfig, InitConfig, RunConfig
from train.config.check import check
from train.config.from_json import config_from_json, restored
from train.config.protocol import PenaltyProtocolConfig
from train.data.dataset import DataError
from train.data.tfds.locate import data_directory, locate
from train.engine.run_directory import CONFIG, read_json
from train.tasks.modalities import preset_config
from train.validation import ConfigError

# Sections and fields taken from the run, whose origin is unknown.
_SECTIONS = ("data", "model", "optimizer")
_RUN_FIELDS = ("seed", "steps_per_dispatch")


def student(run: Path) -> Config:
    """Returns the configuration of a finished run's student.

    The run's origin may be unknown. Its model, data, optimizer and seed are used; directories and
    devices are not. Its --data-dir is used only if it already has the data set.

    Raises:
      ConfigError: if it is not a run, or its configuration is damaged.
    """
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run} is not a run: it has no {CONFIG}; expected a finished run.")
    stored = read_json(run / CONFIG)
    name, kind = stored.get("preset"), stored.get("kind")
    like = preset_config(kind, name)
    if like is None:
        shown = printable(repr(name), longest=60)
        raise ConfigError(f"{run} was started with {shown}; expected a preset of this version.")
    try:
        return _student(run, stored, like)
    except ValueError as error:
        raise ConfigError(f"{run / CONFIG}: {error}") from error


def _student(run: Path, fields: dict[str, Any], like: Config) -> Config:
    if missing := [section for section in _SECTIONS if section not in fields]:
        raise ConfigError(f"{', '.join(missing)} is missing. Restore the run's {CONFIG}.")
    config = config_from_json(like, {section: fields[section] for section in _SECTIONS})
    run_fields = fields.get("run", {})
    if not isinstance(run_fields, dict):
        raise ConfigError(f"run is not an object; expected one. Restore the run's {CONFIG}.")
    chosen = {name: run_fields[name] for name in _RUN_FIELDS if name in run_fields}
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, data_dir=_data_dir(config.data)),
        protocol=PenaltyProtocolConfig(),
        init=InitConfig(collapsed_from=run),
        distillation=DistillationConfig(teacher=run),
        penalty=dataclasses.replace(like.penalty, strength=0.0, slope_learning_rate=0.0),
        run=restored(RunConfig(), chosen, "run"),
    )
    check(config)
    return config


def _data_dir(data: DataConfig) -> Path | None:
    """Returns the run's TFDS directory if it has the set: nothing is written to another one."""
    if data.data_dir is None:
        return None
    try:
        return data.data_dir if locate(data.dataset, data_directory(data.data_dir)) else None
    except (DataError, OSError):  # the path of a file
        return None
