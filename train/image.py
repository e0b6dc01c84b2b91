"""Trains and collapses an image classifier.

`python -m train.image PRESET [--flag value ...]` trains; --dataset takes a name, or the path of a
folder with a folder of pictures for each class, or of an .npz file of arrays.
`python -m train.image predict CHECKPOINT PICTURE...` prints the label of each picture.
"""

if __name__ == "__main__":  # before the slow imports
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import sys

import tyro

from lcjax._messages import printable
from train.generation.classify import classify
from train.protocols import PROTOCOLS
from train.runs import command
from train.runs.flags import configure_warnings

_PROG = "python -m train.image"


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] == ["predict"]:
        _predict(sys.argv[2:])
    else:
        command.run(_PROG, __doc__, "image", PROTOCOLS)


def _predict(arguments: list[str]) -> None:
    configure_warnings()
    try:
        found = tyro.cli(classify, prog=f"{_PROG} predict", args=arguments)
    except (OSError, ImportError, ValueError) as error:
        sys.exit(f"error: {printable(error)}")
    for path, label, probability in found:
        print(f"{printable(path)}  {printable(label)}  {probability:.4f}")


if __name__ == "__main__":
    main()
