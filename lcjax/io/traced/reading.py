"""Reads leaves of the checkpoint of a traced function."""

from collections.abc import Iterable
from typing import Any

from lcjax.io.leaves import LeafPath
from lcjax.io.traced.source import TracedSource


class Reader:
    """Reads leaves by their paths in the tree of the function.

    orbax reads a list as a whole: the arrays of lists are kept, so that each list is read once.
    """

    def __init__(self, source: TracedSource):
        """Not called by users.

        Args:
          source: the checkpoint.
        """
        self._contents, self.leaves = source.contents, source.leaves
        self._lists: dict[LeafPath, dict[LeafPath, Any]] = {}

    def values(self, paths: Iterable[LeafPath], *, keep: bool = True) -> dict[LeafPath, Any]:
        """Returns the values of leaves.

        Args:
          paths: in the tree of the function.
          keep: whether to keep lists that are read now.
        """
        stored = {path: self.leaves[path] for path in paths}
        plain, found = {}, {}
        for path, place in stored.items():
            index = next((i for i, key in enumerate(place) if isinstance(key, int)), None)
            if index is None:
                plain[path] = place
            else:
                found[path] = self._list(place[:index], keep)[place]
        return found | (self._contents.read(plain) if plain else {})

    def _list(self, folder: LeafPath, keep: bool) -> dict[LeafPath, Any]:
        if folder in self._lists:
            return self._lists[folder]
        inside = {p: p for p in self._contents.records if p[: len(folder)] == folder}
        values = self._contents.read(inside)
        if keep:
            self._lists[folder] = values
        return values
