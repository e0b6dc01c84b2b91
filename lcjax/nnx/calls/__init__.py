"""Which methods of which modules a call runs, and which of them run sites."""

from lcjax.nnx.calls.binding import bound
from lcjax.nnx.calls.owners import find_owners

__all__ = ["bound", "find_owners"]
