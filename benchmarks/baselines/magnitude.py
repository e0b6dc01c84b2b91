"""Baseline: magnitude pruning of hidden units, in place of each collapse.

`python -m benchmarks.baselines.magnitude RUN`: from the deep model of RUN, healed as RUN heals.
Every MLP that RUN collapsed keeps the hidden units with the largest `‖W₁[:, j]‖ ‖W₂[j, :]‖`, as
many as fit into the parameters that it has left in RUN; several hidden layers keep the same share.

References:
  Han, Pool, Tran and Dally 2015, arXiv 1506.02626 (magnitudes); Li et al. 2017, arXiv 1608.08710
  (whole units).
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.baselines import base, trees
from lcjax.structure.chains.chain import Chain, join
from train.validation import ConfigError


def prune(deep: Any, sites: Sequence[str]) -> base.Compressed:
    """Returns the deep model with each MLP pruned to its fused size."""
    masks, lines = {}, []
    for chain, budget in base.budgets(deep, sites):
        before = base.widths(chain)
        after = narrowed(chain, budget)
        masks |= _masks(chain, after)
        change = " → ".join("-".join(map(str, each)) for each in (before, after))
        lines.append(f"{chain.path or 'the MLP'}: {change}, {size(chain, after):,} parameters")
    mask = trees.mask_tree(deep["params"], masks)
    removed = trees.count_masked(deep["params"], mask)
    variables = deep | {"params": trees.apply_mask(deep["params"], mask)}
    constrain = partial(trees.masked_updates, mask=mask)
    return base.Compressed(variables, constrain, removed, "\n".join(lines))


def size(chain: Chain, widths: Sequence[int]) -> int:
    """Returns the number of parameters of an MLP with these widths."""
    layers = zip(chain.denses.values(), pairwise(widths), strict=True)
    return sum(d_in * d_out + d_out * ("bias" in dense) for dense, (d_in, d_out) in layers)


def narrowed(chain: Chain, budget: int) -> list[int]:
    """Returns widths within a budget of parameters, the hidden ones reduced by one factor.

    Raises:
      ConfigError: when one unit per layer exceeds the budget.
    """
    first, *hidden, last = base.widths(chain)
    widest = max(hidden)
    for left in range(widest, 0, -1):
        cut = [first, *(max(1, width * left // widest) for width in hidden), last]
        if size(chain, cut) <= budget:
            return cut
    raise ConfigError(
        f"{chain.path}: a budget of {budget:,} parameters is too small for one unit per layer."
    )


def _masks(chain: Chain, after: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns masks of an MLP's kernels and biases, by path inside params."""
    indices = list(chain.denses)
    kernels = [np.asarray(chain.denses[i]["kernel"], np.float64) for i in indices]
    masks, into = {}, np.ones(after[0], bool)
    for place, i in enumerate(indices):
        out = np.ones(after[-1], bool)
        if i != indices[-1]:
            ahead, behind = kernels[place], kernels[place + 1]
            score = np.linalg.norm(ahead, axis=0) * np.linalg.norm(behind, axis=1)
            out = np.zeros(len(score), bool)
            out[np.argsort(-score, kind="stable")[: after[place + 1]]] = True
        path = join(chain.path, chain.dense_name(i))
        masks |= {f"{path}/kernel": into[:, None] & out, f"{path}/bias": out}
        into = out
    return masks


if __name__ == "__main__":
    base.main(base.from_weights(prune), __doc__)
