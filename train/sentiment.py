"""Fine-tunes a pretrained encoder to classify texts, and collapses it.

`python -m train.sentiment PRESET [--flag value ...]` trains;
`python -m train.sentiment predict CHECKPOINT "a text"` prints the label of a text.
"""

if __name__ == "__main__":  # before the slow imports
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import sys

import tyro

from lcjax._messages import printable
from train.generation.predict import predict
from train.protocols import PROTOCOLS
from train.runs import command
from train.runs.flags import configure_warnings

_PROG = "python -m train.sentiment"


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] == ["predict"]:
        _predict(sys.argv[2:])
    else:
        command.run(_PROG, __doc__, "text", PROTOCOLS)


def _predict(arguments: list[str]) -> None:
    configure_warnings()
    try:
        label, probability = tyro.cli(predict, prog=f"{_PROG} predict", args=arguments)
    except (OSError, ImportError, ValueError) as error:
        sys.exit(f"error: {printable(error)}")
    print(f"{printable(label)}  {probability:.4f}")


if __name__ == "__main__":
    main()
