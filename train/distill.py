"""Trains the compact topology of a finished run as a student of its deep model.

`python -m train.distill RUN [--flag value ...]`, for images, labelled texts and language. The
student begins with new params where the run fused layers. Data, model, optimizer and seed are the
run's; every flag of the command that made it may be given. Where the student is kept (--runs-dir)
and on which devices it computes are not taken from the run. --teacher OTHER takes another run's
deep model.
"""

if __name__ == "__main__":  # before all that takes time to import
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

from lcjax._messages import printable
from train.config.base import Config, DataConfig, ProtocolConfig, RunConfig, check
from train.config.from_json import restored
from train.data.images.splits import DataError
from train.data.tfds.locate import data_directory, locate
from train.engine.run_directory import CONFIG, read_json
from train.runs import command
from train.tasks.image import presets
from train.tasks.image import task as image_task
from train.tasks.language import presets as language_presets
from train.tasks.language import task as language_task
from train.tasks.text import presets as text_presets
from train.tasks.text import task as text_task
from train.validation import ConfigError

_USAGE = (
    "usage: python -m train.distill RUN [--flag value ...]; RUN is a finished run's directory;\n"
    "       python -m train.distill RUN --help lists the flags"
)
_KINDS: tuple[tuple[Any, Any], ...] = (
    (presets.PRESETS, image_task.make_task),
    (text_presets.PRESETS, text_task.make_task),
    (language_presets.PRESETS, language_task.make_task),
)
# Of a run's configuration, which may be anybody's: what it trained on, and what draws depend on.
_COUNTS = ("data", "model", "optimizer")
_DRAWN = ("seed", "steps_per_dispatch")


def main() -> None:
    """Runs the command line."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        asked = sys.argv[1:] and sys.argv[1] in ("-h", "--help")
        sys.exit(print(f"{__doc__}\n{_USAGE}") if asked else f"error: no RUN.\n{_USAGE}")
    command.quieten()
    try:
        config, make_task = student(Path(sys.argv[1]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {printable(error)}")
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

    The run may be of any origin. Of its configuration counts what describes model, data and
    optimizer, and the seed; where runs are kept and on which devices they compute is for the
    command line. Its --data-dir counts only where the data set is there already.

    Raises:
      ConfigError: when it is not a run, or its configuration is damaged.
    """
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run} is not a run: there is no {CONFIG} in it; wanted a finished run.")
    fields = read_json(run / CONFIG)
    name = fields.get("preset")
    kind = next((kind for kind in _KINDS if isinstance(name, str) and name in kind[0]), None)
    if kind is None:
        shown = printable(repr(name), longest=60)
        raise ConfigError(f"{run} was started with {shown}; wanted one of today's presets.")
    like, make_task = kind[0][name][1], kind[1]
    try:
        if lacking := [key for key in _COUNTS if key not in fields]:
            raise ConfigError(f"it lacks {', '.join(lacking)}. Restore the run's {CONFIG}.")
        config = restored(like, {key: fields[key] for key in _COUNTS})
        drawn = fields.get("run", {})
        if not isinstance(drawn, dict):
            raise ConfigError(f"run is not an object; expected one. Restore the run's {CONFIG}.")
        ours = restored(RunConfig(), {key: drawn[key] for key in _DRAWN if key in drawn}, "run")
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, data_dir=_data_dir(config.data)),
            protocol=ProtocolConfig(teacher=run, collapsed_from=run),
            penalty=dataclasses.replace(like.penalty, strength=0.0, slope_learning_rate=0.0),
            run=ours,
        )
        check(config)
    except ValueError as error:
        raise ConfigError(f"{run / CONFIG}: {error}") from error
    return config, make_task


def _data_dir(data: DataConfig) -> Path | None:
    """Returns the run's TFDS directory if its set is there: nothing is to be written to another."""
    if data.data_dir is None:
        return None
    try:
        return data.data_dir if locate(data.dataset, data_directory(data.data_dir)) else None
    except (DataError, OSError):  # the path of a file
        return None


if __name__ == "__main__":
    main()
