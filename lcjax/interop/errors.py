"""The error of files of weights."""


class WeightsError(ValueError):
    """A file of weights cannot be read, or does not hold what the model wants.

    The message names the file and all that is wrong with it. Nothing has been loaded.
    """
