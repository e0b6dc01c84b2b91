"""Baseline: consecutive blocks cut, one linear map in their place.

The map is folded into the last kernel of the MLP before the cut, so it costs no parameters. As many
blocks are cut as the number of parameters requires, where the validation split does best. The
module runs them on as the identity, with params that healing does not change.

References:
  Shopkhoev et al. 2025 (ReplaceMe), arXiv 2505.02819, section 2, the least-squares map.
"""

import dataclasses
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lcjax
from benchmarks.baselines import base
from benchmarks.baselines.pairs import Pair, find_pairs, moments
from benchmarks.baselines.trees import at_path, mask_tree, masked_updates, replace_at
from lcjax.algebra.moments import Moments
from lcjax.algebra.regression import least_squares
from lcjax.models import BERT
from lcjax.structure.capture import ValueName
from lcjax.tree.paths import leaf_path, natural_sort_key
from train.protocols.fitting import calibration_data
from train.tasks.base import Task
from train.validation import ConfigError

_BLOCK = re.compile(r"block_\d+")
_RIDGE = 1e-3


@dataclasses.dataclass(frozen=True)
class Cut:
    """Blocks that are cut.

    Attributes:
      before: path of the block before them, which stays.
      blocks: paths of the blocks, in forward order.
      pair: the last pair of Dense layers of the block before them.
      post_norm: whether blocks end in a norm, `norm_2`, as BERT's do.
    """

    before: str
    blocks: tuple[str, ...]
    pair: Pair
    post_norm: bool

    @property
    def values(self) -> tuple[ValueName, ValueName, ValueName]:
        """What the MLP adds, and the sums before and after the cut to which it belongs."""
        mlp = ValueName("output", self.pair.site.rpartition("/")[0])
        ends = (self.before, self.blocks[-1])
        if self.post_norm:
            start, end = (ValueName("input", f"{block}/norm_2") for block in ends)
        else:
            start, end = (ValueName("output", block) for block in ends)
        return mlp, start, end


def compress(task: Task, target: base.Target) -> base.Compressed:
    """Returns the model of a task with blocks cut, within the parameters of the target.

    Raises:
      ConfigError: for a network without blocks; when all blocks but one have to be cut.
    """
    variables = task.variables
    post_norm = isinstance(task.classifier.module, BERT)
    candidates = cuts(variables["params"], target.parameters, post_norm=post_norm)
    found = _moments(task, candidates)
    trees = [
        replace_at(variables["params"], replaced(variables["params"], cut, found[cut.before]))
        for cut in candidates
    ]
    scores = [task.score(variables | {"params": params}) for params in trees]
    best = int(np.argmax(scores))
    chosen, params = candidates[best], trees[best]
    mask = mask_tree(params, dict.fromkeys(frozen_leaves(params, chosen), np.array(False)))
    lines = [f"cut: {', '.join(chosen.blocks)}; a linear map after {chosen.pair.last}"]
    lines += [
        f"{cut.blocks[0]} to {cut.blocks[-1]}: validation score {score:.4f}"
        for cut, score in zip(candidates, scores, strict=True)
    ]
    removed = sum(lcjax.count_parameters(at_path(params, block)) for block in chosen.blocks)
    constrain = partial(masked_updates, mask=mask)
    small = partial(shallow, task, chosen)
    return base.Compressed(
        variables | {"params": params}, constrain, removed, "\n".join(lines), small
    )


def block_names(params: Any) -> list[str]:
    """Returns the blocks of a network in forward order; none of a plain MLP."""
    return sorted(filter(_BLOCK.fullmatch, params), key=natural_sort_key)


def cuts(params: Any, budget: int, *, post_norm: bool) -> list[Cut]:
    """Returns every cut of the fewest consecutive blocks that leaves at most so many parameters.

    Raises:
      ConfigError: for a network without blocks; when all blocks but one are not enough.
    """
    blocks = block_names(params)
    if not blocks:
        raise ConfigError("the network has no blocks, so none can be cut.")
    excess = lcjax.count_parameters(params) - budget
    count = max(1, -(-excess // lcjax.count_parameters(params[blocks[0]])))
    if count >= len(blocks):
        raise ConfigError(
            f"{count} of {len(blocks)} blocks would have to be cut for {budget:,} parameters; "
            "expected at least one that stays."
        )
    last = {}  # of each block
    for pair in find_pairs(params):
        last[pair.site.partition("/")[0]] = pair
    return [
        Cut(blocks[i], tuple(blocks[i + 1 : i + 1 + count]), last[blocks[i]], post_norm)
        for i in range(len(blocks) - count)
    ]


def replaced(params: Any, cut: Cut, moments: Moments) -> dict[str, Any]:
    """Returns the leaves and blocks that change: the map folded in, the cut blocks the identity.

    With m what the MLP before the cut adds and y the rest of the sum, `m T + c` is the ridge
    regression of `s − y` on m, s the sum after the cut. A pre-norm block of zeros is the identity.
    A post-norm block is if its norms have scale 1, since x is normalised before it; so the scale
    and offset before the cut move behind it.

    Args:
      params: of the network.
      cut: the blocks.
      moments: of m and `s − y`.
    """
    linear = least_squares(moments, _RIDGE)
    dense = at_path(params, cut.pair.last)
    kernel = np.asarray(dense["kernel"], np.float64) @ linear.kernel
    bias = cut.pair.bias(params) @ linear.kernel + linear.bias
    folded = {"kernel": jnp.asarray(kernel, dense["kernel"].dtype)}
    offset = {"bias": jnp.asarray(bias, dense["kernel"].dtype)}
    found: dict[str, Any] = {cut.pair.last: folded | (offset if "bias" in dense else {})}
    if "bias" not in dense:
        found[cut.pair.bypass] = offset
    for block in cut.blocks:
        found[block] = jax.tree.map(jnp.zeros_like, at_path(params, block))
    if cut.post_norm:
        end = cut.blocks[-1]
        unit = _unit_norm(at_path(params, f"{end}/norm_2"))
        for block in cut.blocks:
            found[block] = found[block] | {"norm_1": unit, "norm_2": unit}
        found[end] = found[end] | {"norm_2": at_path(params, f"{end}/norm_2")}
        found[f"{cut.before}/norm_2"] = unit
    return found


def frozen_leaves(params: Any, cut: Cut) -> list[str]:
    """Returns the paths of the leaves that healing leaves as they are, as many as were cut."""
    prefixes = tuple(f"{block}/" for block in cut.blocks)
    paths = (leaf_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params))
    leaves = [path for path in paths if path.startswith(prefixes)]
    if not cut.post_norm:
        return leaves
    moved = f"{cut.blocks[-1]}/norm_2/"
    stays = f"{cut.before}/norm_2/"
    return [path.replace(moved, stays) if path.startswith(moved) else path for path in leaves]


def shallow(task: Task, cut: Cut, variables: Any) -> tuple[Any, Any]:
    """Returns the network without the cut blocks as a function, and its variables."""
    params = dict(variables["params"])
    left = [block for block in block_names(params) if block not in cut.blocks]
    kept = {block: params[block] for block in left}
    if cut.post_norm:
        moved = params[cut.blocks[-1]]["norm_2"]
        kept[cut.before] = kept[cut.before] | {"norm_2": moved}
    others = {name: node for name, node in params.items() if not _BLOCK.fullmatch(name)}
    renamed = {f"block_{i}": kept[block] for i, block in enumerate(left)}
    module = task.classifier.module.clone(depth=len(left))
    classifier = dataclasses.replace(task.classifier, module=module)
    return classifier.logits, variables | {"params": others | renamed}


def _unit_norm(norm: Any) -> Any:
    return {"scale": jnp.ones_like(norm["scale"]), "bias": jnp.zeros_like(norm["bias"])}


def _moments(task: Task, candidates: Sequence[Cut]) -> dict[str, Moments]:
    """Returns the moments that `replaced` needs, by the block before the cut; one pass."""

    def select(values: Any) -> dict[str, Any]:
        pairs = {}
        for cut in candidates:
            (mlp,), (start,), (end,) = (values[name] for name in cut.values)
            pairs[cut.before] = [(mlp, end - (start - mlp))]
        return pairs

    names = {name for cut in candidates for name in cut.values}
    apply, data = task.classifier.logits, calibration_data(task)
    return moments(apply, task.variables, data, select, names)
