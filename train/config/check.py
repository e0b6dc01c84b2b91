"""Checks of a whole configuration, before anything is loaded or written."""

import math

from train.config.base import Config
from train.config.calibrated import HealedConfig
from train.config.protocol import AnnealConfig
from train.validation import ConfigError, positive, require


def check(config: Config) -> None:
    """Checks all flags of a run.

    Raises:
      ConfigError: if a value is out of range, or flags contradict one another; names them.
    """
    optimizer, penalty, run = config.optimizer, config.penalty, config.run
    for owner, name in (
        (run, "steps_per_dispatch"),
        (run, "log_every"),
        (run, "checkpoint_every"),
        (run, "keep"),
        (optimizer, "accumulate"),
    ):
        require(owner, name, lambda value: value >= 1, "at least 1")
    config.data.check()
    config.model.check()
    config.devices.check()
    if config.data.batch_size % optimizer.accumulate:
        raise ConfigError(
            f"--accumulate is {optimizer.accumulate}, which does not divide --batch-size "
            f"{config.data.batch_size}; expected a divisor of it."
        )
    require(optimizer, "epochs", positive, "a positive number")
    require(optimizer, "learning_rate", positive, "a positive number")
    require(optimizer, "warmup", lambda value: 0 <= value < 1, "in [0, 1)")
    require(optimizer, "weight_decay", lambda value: 0 <= value < math.inf, "at least 0")
    require(optimizer, "clip_norm", lambda v: v is None or positive(v), "a positive number")
    require(penalty, "strength", lambda value: 0 <= value < math.inf, "at least 0")
    require(penalty, "slope_learning_rate", lambda value: 0 <= value < math.inf, "at least 0")
    require(penalty, "linear_units", lambda value: 0 <= value <= 1, "in [0, 1]")
    require(penalty, "start", lambda value: 0 <= value < 1, "in [0, 1)")
    require(penalty, "max_gap", lambda value: value >= 0, "at least 0")
    require(run, "seed", lambda value: 0 <= value < 2**32, "in [0, 2^32)")
    distillation = config.distillation
    require(distillation, "teacher_weight", lambda value: 0 <= value <= 1, "in [0, 1]")
    require(distillation, "teacher_temperature", positive, "a positive number")
    require(distillation, "hidden_weight", lambda v: 0 <= v < math.inf, "at least 0")
    config.protocol.check()
    _check_combinations(config)


def _check_combinations(config: Config) -> None:
    protocol, init, start = config.protocol, config.init, config.penalty.start
    if config.penalty.linear_units and config.penalty.slope_per == "site":
        raise ConfigError(
            f"--linear-units is {config.penalty.linear_units}, but sites have one slope each; "
            "expected --slope-per unit with it."
        )
    if config.distillation.hidden_weight and config.optimizer.remat:
        raise ConfigError(
            "--hidden-weight and --remat are both set; expected one of them: recomputed blocks "
            "have no outputs to compare."
        )
    if init.collapsed_from is not None and init.deep is not None:
        raise ConfigError("--collapsed-from and --from are both set; expected one of them.")
    healed = isinstance(protocol, HealedConfig) and protocol.deep_teacher
    if healed and config.distillation.teacher is not None:
        raise ConfigError("--teacher and --deep-teacher are both set; expected one of them.")
    if not isinstance(protocol, AnnealConfig):
        return
    if protocol.target_params is not None and init.deep is None:
        raise ConfigError(
            "--target-params selects sites by what they cost a finished model; expected its run as "
            "--from, or --count, --last or --where instead."
        )
    if start + protocol.anneal_fraction > 1:
        raise ConfigError(
            f"--start is {start} and --anneal-fraction {protocol.anneal_fraction}; expected a sum "
            "of at most 1, so that slopes reach 1."
        )
