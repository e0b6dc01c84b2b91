"""Trains and collapses an image classifier: `python -m train.image PRESET [--flag value ...]`."""

if __name__ == "__main__":  # before the slow imports
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


from train.protocols import PROTOCOLS
from train.runs import command


def main() -> None:
    """Runs the command line."""
    command.run("python -m train.image", __doc__, "image", PROTOCOLS)


if __name__ == "__main__":
    main()
