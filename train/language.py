"""Trains a language model, or fine-tunes GPT-2, collapses it, and writes text.

`python -m train.language PRESET [--flag value ...]` trains;
`python -m train.language generate CHECKPOINT --prompt "a text"` goes on with a text.
"""

if __name__ == "__main__":  # before all that takes time to import
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import sys

import tyro

from lcjax._messages import printable, printable_lines
from train.generation.generate import generate
from train.runs import command
from train.runs.command import Job
from train.tasks.language.config import LanguageConfig
from train.tasks.language.presets import PRESETS
from train.tasks.language.task import make_task

_PROG = "python -m train.language"


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] == ["generate"]:
        _generate(sys.argv[2:])
    else:
        command.run(_PROG, __doc__, PRESETS, make_task)


def prepare(config: LanguageConfig) -> Job:
    """Returns the data, the model and the optimizer that a config asks for.

    Raises:
      ValueError: when a flag's value cannot be, or the data set, the weights or a run do not fit.
      FileNotFoundError: when there are no such weights.
      ImportError: when a package of the extra `text` is needed and not installed.
    """
    return command.prepare(config, make_task)


def _generate(arguments: list[str]) -> None:
    command.quieten()
    try:
        got = tyro.cli(generate, prog=f"{_PROG} generate", args=arguments)
    except (OSError, ImportError, ValueError) as error:
        sys.exit(f"error: {printable(error)}")
    speed = f"{got.tokens:,} tokens, {got.tokens_per_second:,.0f} a second"
    print(f"{printable_lines(got.text)}\n\n{speed}")


if __name__ == "__main__":
    main()
