"""Baseline: MLPs dropped, in place of each collapse.

`python -m benchmarks.baselines.drop RUN`: from the deep model of RUN, healed as RUN heals. A
dropped MLP is a linear layer of zeros without updates, so that only its residual connection is
left. `remove_mlps` chooses MLPs itself, and leaves the mean output of each as a bias.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import lcjax
from benchmarks.baselines import base, trees
from benchmarks.baselines.pairs import Pair, dense_moments, find_pairs
from train.protocols.fitting import calibration_data
from train.tasks.base import Task
from train.validation import ConfigError


def drop_mlps(deep: Any, sites: Sequence[str]) -> base.Compressed:
    """Returns the deep model with zeros for the linear layers that replace the sites."""
    compact, report = lcjax.collapse(deep, sites, lcjax.Exact(max_gap=math.inf))
    mask = trees.mask_tree(compact["params"], dict.fromkeys(report.new_leaves, np.array(False)))
    count = trees.count_masked(compact["params"], mask)
    variables = compact | {"params": trees.apply_mask(compact["params"], mask)}
    text = f"{len(sites)} MLPs dropped, with {count:,} weights of their linear layers"
    return base.Compressed(variables, partial(trees.masked_updates, mask=mask), count, text)


def remove_mlps(task: Task, target: base.Target) -> base.Compressed:
    """Returns the model of a task without whole MLPs, within the parameters of the target.

    MLPs are removed in the order of the validation score of the model without each alone, the best
    first.

    Raises:
      ConfigError: for a network that is one MLP; when removing all of them is not enough.
    """
    variables = task.variables
    pairs = find_pairs(variables["params"])
    if len({_module(pair) for pair in pairs}) < max(2, len(pairs)):
        raise ConfigError(
            "the network has an MLP without a residual connection, which cannot be removed."
        )
    apply, data = task.classifier.logits, calibration_data(task)
    moments = dense_moments(apply, variables, data, [pair.last for pair in pairs])

    def without(removed: Sequence[Pair]) -> Any:
        means = {pair: moments[pair.last].mean_t for pair in removed}
        return variables | {"params": removed_pairs(variables["params"], means)}

    scores = {pair: task.score(without([pair])) for pair in pairs}
    order = sorted(pairs, key=lambda pair: -scores[pair])
    for count in range(1, len(order) + 1):
        small = without(order[:count])
        if lcjax.count_parameters(small) <= target.parameters:
            lines = [
                f"{_module(each)}: removed, alone {scores[each]:.4f}" for each in order[:count]
            ]
            return base.Compressed(small, lambda tx: tx, 0, "\n".join(lines))
    raise ConfigError(
        f"removing all {len(pairs)} MLPs leaves more than {target.parameters:,} parameters."
    )


def removed_pairs(params: Any, means: Mapping[Pair, Any]) -> Any:
    """Returns params with a bias alone in the place of MLPs of one pair each.

    Args:
      params: of the network.
      means: the biases, (d_out,), by the pair.
    """
    found = {}
    for pair, mean in means.items():
        dtype = trees.at_path(params, pair.last)["kernel"].dtype
        name = pair.bypass.rpartition("/")[2]
        found[_module(pair)] = {name: {"bias": jnp.asarray(mean, dtype)}}
    return trees.replace_at(params, found)


def _module(pair: Pair) -> str:
    return pair.site.rpartition("/")[0]


if __name__ == "__main__":
    base.main(base.from_weights(drop_mlps), __doc__)
