"""The same networks as params trees and as traced functions."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lcjax
from tests.helpers.trees import with_slopes

RNG = np.random.default_rng(0)
BATCHES = [jax.device_put(np.float32(RNG.normal(0.3, size=(16, 3, 6)))) for _ in range(4)]
X = jnp.concatenate(BATCHES)
DATA = lcjax.CalibrationData(BATCHES, holdout=0.0, progress=False)


class Net(nn.Module):
    """Blocks one after another: widths of an MLP, or the hidden width of a GLU."""

    blocks: tuple
    residual: bool = False
    norm: Literal["batch"] | None = None

    @nn.compact
    def __call__(self, x):
        for i, block in enumerate(self.blocks):
            if isinstance(block, int):
                layer = lcjax.CollapsibleGLU(block, x.shape[-1], name=f"block_{i}")
            else:
                layer = lcjax.CollapsibleMLP(block, nn.gelu, norm=self.norm, name=f"block_{i}")
            x = x + layer(x) if self.residual else layer(x)
        return x

    def plain(self, variables, x):
        """The same function, without lcjax, of the same variables without slopes."""
        for i in range(len(self.blocks)):
            y = self.block(variables, i, x)
            x = x + y if self.residual else y
        return x

    def block(self, variables, i, x):
        """One block, without lcjax."""
        p, name = variables["params"][f"block_{i}"], f"block_{i}"
        dense = lambda p, x: x @ p["kernel"] + p.get("bias", 0)
        if "gate" in p:
            return dense(p["down"], nn.silu(dense(p["gate"], x)) * dense(p["up"], x))
        last = len(self.blocks[i]) - 1
        for j in range(last):
            x = nn.gelu(dense(p[f"dense_{j}"], x))
            if self.norm:
                stats, params = variables["batch_stats"][name][f"norm_{j}"], p[f"norm_{j}"]
                scale = params["scale"] * jax.lax.rsqrt(stats["var"] + 1e-5)
                x = (x - stats["mean"]) * scale + params["bias"]
        return dense(p[f"dense_{last}"], x)


NETS = {
    "chain": Net(((16, 8, 4),)),
    "chain with a narrow layer": Net(((16, 2, 9, 7),)),
    "batch norm": Net(((16, 8, 4),), norm="batch"),
    "GLU": Net((16,), residual=True),
    "two blocks": Net((16, (12, 6)), residual=True),
}


def variables_of(net, seed=1):
    variables = jax.jit(net.init)(jax.random.key(seed), X)
    rng = np.random.default_rng(seed)
    noise = lambda leaf: np.asarray(leaf) + rng.uniform(0.1, 0.4, leaf.shape).astype(leaf.dtype)
    return with_slopes(jax.device_put(jax.tree.map(noise, variables)), 0.0)


def without_slopes(tree):
    if not isinstance(tree, dict):
        return tree
    return {name: without_slopes(node) for name, node in tree.items() if "act" not in name}


class FrontEnd(NamedTuple):
    """A network by one of the front ends, all of whose functions take its tree first."""

    tree: dict[str, Any]
    run: Callable[..., Any]
    sites: Callable[..., Any]
    collapse: Callable[..., Any]
    abstract_collapse: Callable[..., Any]
    calibrate: Callable[..., Any]
    collapse_sequential: Callable[..., Any]


def as_params_tree(net):
    on = lambda method: lambda tree, *args, **how: method(net.apply, tree, *args, **how)
    return FrontEnd(
        variables_of(net),
        net.apply,
        lcjax.find_sites,
        lcjax.collapse,
        lcjax.abstract_collapse,
        on(lcjax.calibrate),
        on(lcjax.collapse_sequential),
    )


def as_traced(net):
    f = lcjax.collapsible(net.plain)

    def method(name):
        return lambda tree, *args, **how: getattr(f.trace(tree, X), name)(*args, **how)

    return FrontEnd(
        f.init(without_slopes(variables_of(net)), X),
        f,
        lambda tree: f.trace(tree, X).sites,
        method("collapse"),
        method("abstract_collapse"),
        method("calibrate"),
        method("collapse_sequential"),
    )


FRONT_ENDS = {"params tree": as_params_tree, "traced": as_traced}
