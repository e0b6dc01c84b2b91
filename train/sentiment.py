"""Fine-tunes a pretrained encoder to classify texts, collapses it.

`python -m train.sentiment PRESET [--flag value ...]` trains;
`python -m train.sentiment predict CHECKPOINT "a text"` prints the label of a text.
"""

if __name__ == "__main__":  # before all that takes time to import
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import sys

import tyro

from lcjax._messages import printable
from train.generation.predict import predict
from train.runs import command
from train.runs.command import Job
from train.tasks.text.config import TextConfig
from train.tasks.text.presets import PRESETS
from train.tasks.text.task import make_task

_PROG = "python -m train.sentiment"


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] == ["predict"]:
        _predict(sys.argv[2:])
    else:
        command.run(_PROG, __doc__, PRESETS, make_task)


def prepare(config: TextConfig) -> Job:
    """Returns the data, the model and the optimizer that a config asks for.

    Raises:
      ValueError: when a flag's value cannot be, or the data set, the weights or a run do not fit.
      FileNotFoundError: when there are no such weights.
      ImportError: when a package of the extra `text` is not installed.
    """
    return command.prepare(config, make_task)


def _predict(arguments: list[str]) -> None:
    command.quieten()
    try:
        label, probability = tyro.cli(predict, prog=f"{_PROG} predict", args=arguments)
    except (OSError, ImportError, ValueError) as error:
        sys.exit(f"error: {printable(error)}")
    print(f"{printable(label)}  {probability:.4f}")


if __name__ == "__main__":
    main()
