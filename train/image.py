"""Trains an image classifier, collapses it: `python -m train.image PRESET [--flag value ...]`."""

if __name__ == "__main__":  # before all that takes time to import
    from train.runtime.interrupts import end_in_one_line

    end_in_one_line()


from train.runs import command
from train.runs.command import Job, fit
from train.runs.conclude import conclude
from train.tasks.image.config import ImageConfig
from train.tasks.image.presets import PRESETS
from train.tasks.image.task import make_task

__all__ = ["conclude", "fit", "main", "prepare"]


def main() -> None:
    """Runs the command line."""
    command.run("python -m train.image", __doc__, PRESETS, make_task)


def prepare(config: ImageConfig) -> Job:
    """Returns the data, the model and the optimizer that a config asks for.

    Raises:
      ValueError: when a flag's value cannot be, or the data set or a run is not there.
    """
    return command.prepare(config, make_task)


if __name__ == "__main__":
    main()
