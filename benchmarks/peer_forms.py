"""The smaller networks that peers stand for: their params cut, and what runs them.

A peer trains in its deep model's shapes (`benchmarks.peers`). Here what it does without is really
gone: units are cut out of kernels, kernels are two factors, MLPs are not there.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import low_rank, peers, pruned
from lcjax import CollapsibleMLP
from lcjax.nn.activations import interpolate
from lcjax.structure.chains import find_chains, join


def without_units(deep: Any, sites: Sequence[str]) -> Any:
    """Returns the variables of what `benchmarks.pruned` makes, hidden units cut out."""
    params = pruned.pruned(deep, sites).variables["params"]
    narrowed = {chain.path for chain, _ in peers.budgets(deep, sites)}
    cut = {}
    for chain in find_chains(params):
        if chain.path not in narrowed:
            continue
        into = None
        for i, dense in chain.denses.items():
            kernel = np.asarray(dense["kernel"])
            out = np.any(kernel, 0) if i in chain.acts else np.full(kernel.shape[1], True)
            rows = kernel if into is None else kernel[into]
            path = join(chain.path, chain.dense_name(i))
            cut[path] = {
                name: jnp.asarray(rows[:, out] if name == "kernel" else leaf[out])
                for name, leaf in dense.items()
            }
            into = out
    return deep | {"params": low_rank.replaced(params, cut)}


def in_factors(deep: Any, sites: Sequence[str]) -> Any:
    """Returns the variables of what `benchmarks.low_rank` makes, kernels as their two factors."""
    factors = low_rank.split(deep["params"], low_rank.affordable_ranks(deep, sites))
    return deep | {"params": low_rank.replaced(deep["params"], factors)}


def without_mlps(deep: Any, sites: Sequence[str]) -> Any:
    """Returns the variables of what `benchmarks.removed` makes; its MLPs hold nothing."""
    gone = {site.rpartition("/")[0]: {} for site in sites}
    return deep | {"params": low_rank.replaced(deep["params"], gone)}


def running() -> AbstractContextManager[None]:
    """Inside, a model in float32 may be applied to variables of these functions, by inference.

    MLPs that hold what their modules say run as they do elsewhere.
    """
    return nn.intercept_methods(_run_held)


def _run_held(run: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    if not isinstance(module, CollapsibleMLP) or context.method_name != "__call__":
        return run(*args, **kwargs)
    held = module.variables.get("params", {})
    if module.is_initializing() or (held and _as_said(module, held)):
        return run(*args, **kwargs)
    if module.norm is not None or module.dtype not in (None, jnp.float32):
        raise ValueError(f"norm {module.norm!r}, dtype {module.dtype}; wanted no norm, float32.")
    x = args[0]
    if not held:
        return jnp.zeros((*x.shape[:-1], module.features[-1]), x.dtype)
    for i in range(len(module.features)):
        if f"dense_{i}" in held:
            x = _dense(held[f"dense_{i}"], x)
        if f"act_{i}" in held:
            x = interpolate(module.activation, x, held[f"act_{i}"]["slope"])
    return x


def _as_said(module: CollapsibleMLP, held: Mapping[str, Any]) -> bool:
    """Tells whether every kernel is one matrix, before an activation as wide as the module says."""
    kernels = {
        i: held[f"dense_{i}"]["kernel"] for i in range(len(module.features)) if f"dense_{i}" in held
    }
    return not any(
        isinstance(kernel, Mapping)
        or (f"act_{i}" in held and kernel.shape[-1] != module.features[i])
        for i, kernel in kernels.items()
    )


def _dense(held: Mapping[str, Any], x: jax.Array) -> jax.Array:
    kernel = held["kernel"]
    y = (
        x @ kernel["in_kernel"] @ kernel["out_kernel"]
        if isinstance(kernel, Mapping)
        else x @ kernel
    )
    return y + held["bias"] if "bias" in held else y
