"""Narrowed trees for tests, made by hand: no solver is needed."""

import jax
import numpy as np

from lcjax.surgery.report import CollapseReport
from lcjax.tree.paths import leaf_path


def narrowed(params, units, *, linear=(), seed=0):
    """Returns params of a chain with fewer units, and the report of that collapse.

    Args:
      params: of a CollapsibleMLP with biases.
      units: the indices that stay, by the number of the activation.
      linear: numbers of the activations whose bypass has a kernel.
      seed: of the new last kernels.
    """
    rng = np.random.default_rng(seed)
    tree = {name: dict(child) for name, child in params.items()}

    def random(*shape):
        return rng.normal(size=shape).astype(np.float32) / np.sqrt(shape[0])

    new = set()
    for i, stay in sorted(units.items()):
        first, last = tree[f"dense_{i}"], tree[f"dense_{i + 1}"]
        d_in, d_out = first["kernel"].shape[-2], last["kernel"].shape[-1]
        bypass = {"bias": last.pop("bias")}
        if i in linear:
            bypass["kernel"] = random(d_in, d_out)
        tree[f"bypass_{i}"] = bypass
        for name in first:
            first[name] = first[name][..., stay]
        if f"bypass_{i - 1}" in tree and i - 1 in units:
            before = tree[f"bypass_{i - 1}"]
            tree[f"bypass_{i - 1}"] = {name: leaf[..., stay] for name, leaf in before.items()}
        last["kernel"] = random(len(stay), d_out)
        new |= {f"dense_{i}", f"dense_{i + 1}", f"bypass_{i}"}
    paths = [leaf_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]
    removed = [f"dense_{i + 1}/bias" for i in units]
    return tree, CollapseReport(
        gaps={},
        collapsed=(),
        factored=(),
        skipped=(),
        new_leaves=tuple(path for path in paths if path.split("/")[0] in new),
        removed_leaves=tuple(removed),
        parameters_before=0,
        parameters_after=0,
        flops_before=0,
        flops_after=0,
        units={f"act_{i}": np.asarray(stay) for i, stay in units.items()},
    )
