"""Trains a language model, or one from a folder, collapses it, and generates text.

`python -m train.language PRESET [--flag value ...]` trains;
`python -m train.language --pretrained OUT --teacher IN` trains the model of a folder that
`lcjax collapse-model` wrote, with that of the deep folder as teacher: it is the preset `folder`;
`python -m train.language export RUN FOLDER` writes the model that such a run trained as a folder;
`python -m train.language generate CHECKPOINT --prompt "a text"` continues a text.
"""

if __name__ == "__main__":  # before the slow imports
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import sys
from collections.abc import Callable
from typing import Any

import tyro

from lcjax._messages import printable, printable_lines
from train.generation.generate import generate
from train.protocols import PROTOCOLS
from train.runs import command
from train.runs.export import export
from train.runs.flags import configure_warnings

_PROG = "python -m train.language"


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] == ["generate"]:
        _generate(sys.argv[2:])
    elif sys.argv[1:2] == ["export"]:
        _export(sys.argv[2:])
    else:
        if sys.argv[1:2] == ["--pretrained"]:
            sys.argv.insert(1, "folder")
        command.run(_PROG, __doc__, "language", PROTOCOLS)


def _generate(arguments: list[str]) -> None:
    result = _called(generate, "generate", arguments)
    speed = f"{result.tokens:,} tokens, {result.tokens_per_second:,.0f} a second"
    print(f"{printable_lines(result.text)}\n\n{speed}")


def _export(arguments: list[str]) -> None:
    print(f"written to {_called(export, 'export', arguments)}")


def _called(function: Callable[..., Any], name: str, arguments: list[str]) -> Any:
    """Returns what a function returns for a command line; ends with its error in one line."""
    configure_warnings()
    try:
        return tyro.cli(function, prog=f"{_PROG} {name}", args=arguments)
    except (OSError, ImportError, ValueError) as error:
        sys.exit(f"error: {printable(error)}")


if __name__ == "__main__":
    main()
