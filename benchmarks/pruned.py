"""The peer that cuts hidden units: the MLPs that a run collapsed stay deep, and become narrower.

`python -m benchmarks.pruned RUN`: from the deep model that RUN collapsed, healed as RUN heals.
Every such MLP keeps the hidden units of the largest `‖W₁[:, j]‖ ‖W₂[j, :]‖`, as many as there is
room for in the parameters that it has left in RUN; of several hidden layers the same part.

References:
  Han, Pool, Tran and Dally 2015, arXiv 1506.02626 (magnitudes); Li et al. 2017, arXiv 1608.08710
  (whole units).
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks import peers
from lcjax.structure.chains import Chain, join
from train.validation import ConfigError


def pruned(deep: Any, sites: Sequence[str]) -> peers.Peer:
    """Returns the deep model with as many hidden units as leave each MLP its fused size."""
    masks, lines = {}, []
    for chain, budget in peers.budgets(deep, sites):
        before = peers.widths(chain)
        after = narrowed(chain, budget)
        masks |= _masks(chain, after)
        told = " → ".join("-".join(map(str, each)) for each in (before, after))
        lines.append(f"{chain.path or 'the MLP'}: {told}, {size(chain, after):,} parameters")
    kept = peers.masks(deep["params"], masks)
    removed = peers.count_removed(deep["params"], kept)
    variables = deep | {"params": peers.where_kept(deep["params"], kept)}
    return peers.Peer(variables, partial(peers.keeping, kept=kept), removed, "\n".join(lines))


def size(chain: Chain, widths: Sequence[int]) -> int:
    """Returns how many parameters an MLP has at these widths."""
    layers = zip(chain.denses.values(), pairwise(widths), strict=True)
    return sum(d_in * d_out + d_out * ("bias" in dense) for dense, (d_in, d_out) in layers)


def narrowed(chain: Chain, budget: int) -> list[int]:
    """Returns the widths, the hidden ones cut to one part, at which an MLP is within a budget.

    Raises:
      ConfigError: where one unit a layer is too much.
    """
    first, *hidden, last = peers.widths(chain)
    widest = max(hidden)
    for left in range(widest, 0, -1):
        cut = [first, *(max(1, width * left // widest) for width in hidden), last]
        if size(chain, cut) <= budget:
            return cut
    raise ConfigError(
        f"{chain.path}: {budget:,} parameters are left, too few for one hidden unit a layer."
    )


def _masks(chain: Chain, after: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns which entries of an MLP's kernels and biases stay, by path inside params."""
    indices = list(chain.denses)
    kernels = [np.asarray(chain.denses[i]["kernel"], np.float64) for i in indices]
    masks, into = {}, np.ones(after[0], bool)
    for place, i in enumerate(indices):
        out = np.ones(after[-1], bool)
        if i != indices[-1]:
            ahead, behind = kernels[place], kernels[place + 1]
            worth = np.linalg.norm(ahead, axis=0) * np.linalg.norm(behind, axis=1)
            out = np.zeros(len(worth), bool)
            out[np.argsort(-worth, kind="stable")[: after[place + 1]]] = True
        path = join(chain.path, chain.dense_name(i))
        masks |= {f"{path}/kernel": into[:, None] & out, f"{path}/bias": out}
        into = out
    return masks


if __name__ == "__main__":
    peers.main(pruned, __doc__)
