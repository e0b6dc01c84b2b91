"""The errors that lcjax raises, all of them ValueErrors."""

from collections.abc import Iterable


class CollapseError(ValueError):
    """A variables tree, a choice of sites, or a slope does not allow the operation.

    The message names the path, the value found there, the expected value and a remedy. Nothing has
    been changed when it is raised.

    Example:
      >>> import lcjax
      >>> lcjax.collapse({"params": {}})  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      lcjax.errors.CollapseError: no sites: the tree has no leaf named `slope`...
    """


class BypassedError(CollapseError):
    """A linear map next to the units of a later site reads the units of these sites.

    Attributes:
      sites: their paths.
    """

    def __init__(self, message: str, sites: Iterable[str]):
        super().__init__(message)
        self.sites = tuple(sites)


class CheckpointError(ValueError):
    """A checkpoint is damaged, unfinished or of another kind, or differs from the request.

    The message names the checkpoint, the problem and what to do. Nothing has been restored.

    Example:
      >>> import lcjax, tempfile
      >>> lcjax.restore(tempfile.mkdtemp())  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      lcjax.errors.CheckpointError: ...
    """


class DamagedError(CheckpointError):
    """The bytes of a checkpoint are not those that were written."""


class WeightsError(ValueError):
    """A file of weights cannot be read, or does not match the model.

    The message names the file and lists every difference. Nothing has been loaded.

    Example:
      >>> import lcjax.interop, tempfile
      >>> lcjax.interop.model_from_config(tempfile.mkdtemp())  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      lcjax.errors.WeightsError: ...: expected a config.json in it; build the model with...
    """
