"""Baseline: MLPs dropped, in place of each collapse.

`python -m benchmarks.baselines.drop RUN`: from the deep model of RUN, healed as RUN heals. A
dropped MLP is a linear layer of zeros without updates, so that only its residual connection is
left.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import lcjax
from benchmarks.baselines import base, trees


def drop_mlps(deep: Any, sites: Sequence[str]) -> base.Compressed:
    """Returns the deep model with zeros for the linear layers that replace the sites."""
    compact, report = lcjax.collapse(deep, sites, lcjax.Exact(max_gap=math.inf))
    mask = trees.mask_tree(compact["params"], dict.fromkeys(report.new_leaves, np.array(False)))
    count = trees.count_masked(compact["params"], mask)
    variables = compact | {"params": trees.apply_mask(compact["params"], mask)}
    text = f"{len(sites)} MLPs dropped, with {count:,} weights of their linear layers"
    return base.Compressed(variables, partial(trees.masked_updates, mask=mask), count, text)


if __name__ == "__main__":
    base.main(base.from_weights(drop_mlps), __doc__)
