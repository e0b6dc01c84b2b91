"""The peer that needs no fit: the MLPs that a run collapsed are removed, and the rest trained on.

`python -m benchmarks.removed RUN`: from the deep model that RUN collapsed, healed as RUN heals. A
removed MLP is a linear layer of zeros that never moves, behind whose residual connection nothing is
left.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import lcjax
from benchmarks import peers


def removed(deep: Any, sites: Sequence[str]) -> peers.Peer:
    """Returns the deep model with zeros for the linear layers that take the sites' places."""
    compact, report = lcjax.collapse(deep, sites, threshold=float("inf"))
    kept = peers.masks(compact["params"], dict.fromkeys(report.new, np.array(False)))
    count = peers.count_removed(compact["params"], kept)
    variables = compact | {"params": peers.where_kept(compact["params"], kept)}
    told = f"{len(sites)} MLPs removed, with them {count:,} weights of the linear layers"
    return peers.Peer(variables, partial(peers.keeping, kept=kept), count, told)


if __name__ == "__main__":
    peers.main(removed, __doc__)
