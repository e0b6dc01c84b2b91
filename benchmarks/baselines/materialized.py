"""Baselines in their real, smaller shapes, and how to run them.

A baseline trains in its deep model's shapes (`benchmarks.baselines.base`). Here kernels are without
the pruned units, or are two factors, and dropped MLPs are absent.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.baselines import base, magnitude, svd, trees
from lcjax import CollapsibleMLP
from lcjax.nn.activations import interpolate
from lcjax.structure.chains.chain import join
from lcjax.structure.chains.find import find_chains


def narrow(deep: Any, sites: Sequence[str]) -> Any:
    """Returns the variables of the baseline `magnitude`, without its pruned units."""
    params = magnitude.prune(deep, sites).variables["params"]
    narrowed = {chain.path for chain, _ in base.budgets(deep, sites)}
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
    return deep | {"params": trees.replace_at(params, cut)}


def factored(deep: Any, sites: Sequence[str]) -> Any:
    """Returns the variables of the baseline `svd`, with two factors for each of its kernels."""
    factors = svd.split(deep["params"], svd.affordable_ranks(deep, sites))
    return deep | {"params": trees.replace_at(deep["params"], factors)}


def without_mlps(deep: Any, sites: Sequence[str]) -> Any:
    """Returns the variables of the baseline `drop`, without params of its MLPs."""
    empty = {site.rpartition("/")[0]: {} for site in sites}
    return deep | {"params": trees.replace_at(deep["params"], empty)}


def runnable() -> AbstractContextManager[None]:
    """Returns a context in which a float32 model can infer with variables of these functions.

    MLPs whose params have the shapes that their modules declare run as usual.
    """
    return nn.intercept_methods(_run_params)


def _run_params(run: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    if not isinstance(module, CollapsibleMLP) or context.method_name != "__call__":
        return run(*args, **kwargs)
    params = module.variables.get("params", {})
    if module.is_initializing() or (params and _as_declared(module, params)):
        return run(*args, **kwargs)
    if module.norm is not None or module.dtype not in (None, jnp.float32):
        raise ValueError(
            f"got norm {module.norm!r} and dtype {module.dtype}, expected no norm and float32."
        )
    x = args[0]
    if not params:
        return jnp.zeros((*x.shape[:-1], module.features[-1]), x.dtype)
    for i in range(len(module.features)):
        if f"dense_{i}" in params:
            x = _dense(params[f"dense_{i}"], x)
        if f"act_{i}" in params:
            x = interpolate(module.activation, x, params[f"act_{i}"]["slope"])
    return x


def _as_declared(module: CollapsibleMLP, params: Mapping[str, Any]) -> bool:
    """Returns whether every kernel is one matrix, of the declared width before an activation."""
    kernels = {
        i: params[f"dense_{i}"]["kernel"]
        for i in range(len(module.features))
        if f"dense_{i}" in params
    }
    return not any(
        isinstance(kernel, Mapping)
        or (f"act_{i}" in params and kernel.shape[-1] != module.features[i])
        for i, kernel in kernels.items()
    )


def _dense(dense: Mapping[str, Any], x: jax.Array) -> jax.Array:
    kernel = dense["kernel"]
    y = (
        x @ kernel["in_kernel"] @ kernel["out_kernel"]
        if isinstance(kernel, Mapping)
        else x @ kernel
    )
    return y + dense["bias"] if "bias" in dense else y
