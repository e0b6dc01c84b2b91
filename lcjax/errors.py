"""The error that every part of lcjax raises when a tree, a choice of sites or a slope is wrong."""


class CollapseError(ValueError):
    """A variables tree, a choice of sites, or a slope does not allow what was asked.

    The message names the path, what was found there, what was wanted and what to do. Nothing has
    been changed when it is raised.
    """
