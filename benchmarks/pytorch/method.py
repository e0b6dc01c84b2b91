"""The four parts of the published method: PReLUs, penalty, optimizer, fuse.

References:
  Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3 and algorithm 1.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from train.config.base import OptimizerConfig

SLOPE = 0.01


def swap_in(network: nn.Module, sites: Iterable[str]) -> list[nn.PReLU]:
    """Replaces each named activation by a PReLU of slope 0.01; returns the PReLUs."""
    swapped = []
    for site in sites:
        owner, _, name = site.rpartition(".")
        swapped.append(nn.PReLU(init=SLOPE))
        setattr(network.get_submodule(owner), name, swapped[-1])
    return swapped


def penalty(swapped: Iterable[nn.PReLU]) -> torch.Tensor:
    """Returns `Σ (1 − α)²`."""
    return torch.stack([(1 - each.weight).square().sum() for each in swapped]).sum()


def adamw(
    network: nn.Module, config: OptimizerConfig, *, fused: bool | None = None
) -> torch.optim.AdamW:
    """Returns AdamW on weights and slopes, with decay on the kernels of linear layers only.

    Args:
      network: with the trained parameters.
      config: with the strength of the decay.
      fused: whether one kernel updates all tensors; None is PyTorch's default.
    """
    kernels = {id(m.weight) for m in network.modules() if isinstance(m, nn.Linear)}
    decayed = [p for p in network.parameters() if id(p) in kernels]
    others = [p for p in network.parameters() if id(p) not in kernels]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=fused)


def learning_rate(config: OptimizerConfig, steps: int, step: int) -> float:
    """Returns the learning rate of a step, counted from 0: linear warmup, then cosine decay to 0.

    Args:
      config: with warmup and peak.
      steps: of the whole run.
      step: which one.
    """
    warmup = int(config.warmup * steps)
    if step < warmup:
        return config.learning_rate * step / warmup
    done = min((step - warmup) / (steps - warmup), 1.0)
    return config.learning_rate * (1 + math.cos(math.pi * done)) / 2


def adam_rounding(step: int, betas: tuple[float, float] = (0.9, 0.999)) -> float:
    """Returns the ratio of Adam's step with `1 − βᵗ` in float32 to that with it in float64.

    optax computes it in float32, PyTorch in float64. In float32, 0.999 is 0.999 + 1.3e-8, which
    makes the second correction smaller by 1.3e-5 of its value and changes steps by about 6e-6 of
    theirs, all in one direction: more than the rounding of the weights themselves.

    Args:
      step: counted from 0.
      betas: decays of Adam's two moments.
    """
    first, second = (
        float(np.float32(1) - np.float32(beta) ** np.float32(step + 1)) / (1 - beta ** (step + 1))
        for beta in betas
    )
    return math.sqrt(second) / first


def fuse(network: nn.Module, max_gap: float = 0.05) -> list[str]:
    """Fuses linear layers around PReLUs of `|1 − α| < max_gap` in the network, as if α were 1.

    `W = W2 W1`, `b = W2 b1 + b2`.

    Returns:
      paths of the removed activations.
    """
    removed = []
    for path, owner in list(network.named_modules()):
        for name, found in owner.named_children():
            if isinstance(found, nn.Sequential):
                fused, sites = _fused(found, max_gap)
                setattr(owner, name, fused)
                removed += [".".join(filter(None, (path, name, site))) for site in sites]
    return removed


def _fused(found: nn.Sequential, max_gap: float) -> tuple[nn.Sequential, list[str]]:
    children: OrderedDict[str, nn.Module] = OrderedDict()
    removed = []
    for name, child in found.named_children():
        before = next(reversed(children.values()), None)
        if isinstance(child, nn.PReLU) and abs(1 - child.weight.item()) < max_gap:
            removed.append(name)
            continue
        if isinstance(child, nn.Linear) and isinstance(before, nn.Linear):
            children.popitem()
            child = _product(before, child)
        children[name] = child
    return nn.Sequential(children), removed


@torch.no_grad()
def _product(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    fused = nn.Linear(first.in_features, second.out_features, dtype=first.weight.dtype)
    fused.weight.copy_(second.weight @ first.weight)
    fused.bias.copy_(second.weight @ first.bias + second.bias)
    return fused
