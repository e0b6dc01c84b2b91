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
        return rng.normal(size=shape).astype(np.float32) / float(np.sqrt(shape[0]))

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


def narrow_every_mlp(variables, count, *, linear=True, seed=0):
    """Returns variables whose every pair of Dense layers, gated or not, keeps `count` units.

    The first units stay, with random last kernels and maps next to them.
    """
    rng = np.random.default_rng(seed)

    def random(*shape):
        return rng.normal(size=shape).astype(np.float32) / float(np.sqrt(shape[0]))

    def cut(dense):
        return {name: leaf[..., :count] for name, leaf in dense.items()}

    def narrow(node):
        if not isinstance(node, dict):
            return node
        if {"up", "gate", "act", "down"} <= set(node):
            firsts, last, bypass = ("up", "gate"), "down", "bypass"
        elif {"dense_0", "act_0", "dense_1"} <= set(node):
            firsts, last, bypass = ("dense_0",), "dense_1", "bypass_0"
        else:
            return {name: narrow(child) for name, child in node.items()}
        d_in, d_out = node[firsts[0]]["kernel"].shape[0], node[last]["kernel"].shape[1]
        beside = {"bias": random(d_out)} | ({"kernel": random(d_in, d_out)} if linear else {})
        return (
            node
            | {name: cut(node[name]) for name in firsts}
            | {last: {"kernel": random(count, d_out)}, bypass: beside}
        )

    return narrow(variables)


def remove_every_mlp(variables, seed=0):
    """Returns variables with a random bias in place of every pair of Dense layers."""

    def remove(node):
        if not isinstance(node, dict):
            return node
        for last, bypass in (("down", "bypass"), ("dense_1", "bypass_0")):
            if last in node and "act" in " ".join(node):
                width = node[last]["kernel"].shape[1]
                bias = np.random.default_rng(seed).normal(size=width).astype(np.float32)
                return {bypass: {"bias": bias}}
        return {name: remove(child) for name, child in node.items()}

    return remove(variables)
