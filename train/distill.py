"""Trains the compact topology of a finished run as a student of its deep model.

`python -m train.distill RUN [--flag value ...]`, for images, labelled texts and language. The
student begins with new params where the run fused layers. Data, model and optimizer are the run's;
every flag of the command that made it may be given. --teacher OTHER takes another run's deep model.
"""

if __name__ == "__main__":  # before all that takes time to import
    from train.interruption import end_in_one_line

    end_in_one_line()


import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

from train import (
    command,
    image_task,
    language_presets,
    language_task,
    presets,
    text_presets,
    text_task,
)
from train.config import Config, RunConfig
from train.ranges import ConfigError
from train.run_dir import CONFIG, read_json
from train.stored_config import restored

_USAGE = (
    "usage: python -m train.distill RUN [--flag value ...]; RUN is a finished run's directory;\n"
    "       python -m train.distill RUN --help lists the flags"
)
_KINDS: tuple[tuple[Any, Any], ...] = (
    (presets.PRESETS, image_task.make_task),
    (text_presets.PRESETS, text_task.make_task),
    (language_presets.PRESETS, language_task.make_task),
)


def main() -> None:
    """Runs the command line."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        asked = sys.argv[1:] and sys.argv[1] in ("-h", "--help")
        sys.exit(print(f"{__doc__}\n{_USAGE}") if asked else f"error: no RUN.\n{_USAGE}")
    command.quieten()
    try:
        config, make_task = student(Path(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"error: {error}")
    default, flags = config, sys.argv[2:]
    config = tyro.cli(
        type(config),
        default=default,
        prog="python -m train.distill RUN",
        description=__doc__,
        args=flags,
        config=command.FLAGS,
    )
    config = command.as_started(config, default, "python -m train.distill RUN", flags)
    command.execute(config, make_task)


def student(run: Path) -> tuple[Config, Any]:
    """Returns the configuration of a finished run's student, and what makes its task.

    Raises:
      ConfigError: when it is not a run.
    """
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run} is not a run: there is no {CONFIG} in it; wanted a finished run.")
    fields = read_json(run / CONFIG)
    name = fields["preset"]
    kind = next((kind for kind in _KINDS if name in kind[0]), None)
    if kind is None:
        raise ConfigError(f"{run} was started with {name!r}; wanted one of today's presets.")
    config, make_task = restored(kind[0][name][1], fields), kind[1]
    protocol = dataclasses.replace(
        config.protocol, protocol="natural", deep=None, deep_teacher=False,
        teacher=run, collapsed_from=run,
    )  # fmt: skip
    penalty = dataclasses.replace(config.penalty, strength=0.0, slope_learning_rate=0.0)
    ours = dataclasses.replace(
        RunConfig(), runs_dir=config.run.runs_dir, seed=config.run.seed,
        steps_per_dispatch=config.run.steps_per_dispatch,
    )  # fmt: skip
    return dataclasses.replace(config, protocol=protocol, penalty=penalty, run=ours), make_task


if __name__ == "__main__":
    main()
