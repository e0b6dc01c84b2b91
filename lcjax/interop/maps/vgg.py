"""VGG with the names of torchvision."""

from typing import Any

import jax
import jax.numpy as jnp

from lcjax.interop.layouts import CONV, SAME, Layout
from lcjax.interop.name_map import NameMap, Rule, dense_rules, norm_rules
from lcjax.models.vgg import VGG


def _after_grid(grid: int) -> Layout:
    """Returns the layout of the first Dense; PyTorch flattens with channels first."""
    return Layout(
        lambda leaf: (leaf[1], leaf[0]),
        lambda tensor, leaf: (
            tensor.reshape(leaf[1], -1, grid, grid).transpose(2, 3, 1, 0).reshape(leaf)
        ),
        lambda leaf: (
            leaf.reshape(grid, grid, -1, leaf.shape[1])
            .transpose(3, 2, 0, 1)
            .reshape(leaf.shape[1], -1)
        ),
    )


def _rules(model: VGG) -> list[Rule]:
    """Returns the rules; numbers in names count all layers, pooling and ReLU included."""
    rules, layer, i = [], 0, 0
    for stage in model.stages:
        for _ in stage:
            rules += dense_rules(f"conv_{i}", f"features.{layer}", CONV)
            if model.norm:
                norm = f"features.{layer + 1}"
                rules += norm_rules(f"norm_{i}", norm)
                rules.append(Rule(f"norm_{i}/mean", f"{norm}.running_mean", SAME))
                rules.append(Rule(f"norm_{i}/var", f"{norm}.running_var", SAME))
            layer, i = layer + (3 if model.norm else 2), i + 1
        layer += 1
    for i in range(len(model.hidden) + 1):
        layout = None if i else _after_grid(model.grid)
        rules += dense_rules(f"mlp/dense_{i}", f"classifier.{3 * i}", layout)
    return rules


def _inputs(model: VGG, stored: Any) -> jax.ShapeDtypeStruct:
    edge = 2 ** len(model.stages)
    return jax.ShapeDtypeStruct((1, edge, edge, 3), jnp.float32)


TORCHVISION_VGG_MAP = NameMap(
    library="torchvision",
    model=VGG,
    marker="features.0.weight",
    rules=_rules,
    inputs=_inputs,
    fields=lambda config: None,  # torchvision has no config.json
    buffers=(r"features\.\d+\.num_batches_tracked",),
)
