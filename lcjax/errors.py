"""The error that lcjax raises on a wrong tree, choice of sites or slope."""


class CollapseError(ValueError):
    """A variables tree, a choice of sites, or a slope does not allow the operation.

    The message names the path, the value found there, the expected value and a remedy. Nothing has
    been changed when it is raised.
    """
