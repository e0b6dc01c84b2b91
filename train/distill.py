"""Trains the compact topology of a finished run as a student of its deep model.

`python -m train.distill RUN [--flag value ...]`, for images, labelled texts and language. Layers
that the run fused start with new params. Data, model, optimizer and seed are the run's; all flags
of the command that trained it are accepted. The student's directory (--runs-dir) and devices are
not taken from the run. --teacher OTHER uses another run's deep model.
"""

if __name__ == "__main__":  # before the slow imports
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


import sys
from pathlib import Path

from lcjax._messages import printable
from train.protocols import PROTOCOLS
from train.runs import command
from train.runs.flags import configure_warnings, parse
from train.runs.student import student

_PROG = "python -m train.distill RUN"
_USAGE = (
    f"usage: {_PROG} [--flag value ...]; RUN is a finished run's directory;\n"
    f"       {_PROG} --help lists the flags"
)


def main() -> None:
    """Runs the command line."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        help_requested = sys.argv[1:] and sys.argv[1] in ("-h", "--help")
        sys.exit(print(f"{__doc__}\n{_USAGE}") if help_requested else f"error: no RUN.\n{_USAGE}")
    configure_warnings()
    try:
        default = student(Path(sys.argv[1]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {printable(error)}")
    command.execute(parse(default, _PROG, __doc__, sys.argv[2:]), PROTOCOLS)


if __name__ == "__main__":
    main()
