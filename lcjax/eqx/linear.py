"""New `eqx.nn.Linear`s in the place of modules that are nothing but a collapsed pair."""

from typing import Any

import jax
import jax.numpy as jnp

from lcjax.eqx.library import equinox as eqx
from lcjax.eqx.owners import Owner
from lcjax.eqx.places import is_array
from lcjax.transform.lowering.site_chains import SiteChain


def as_linear(owner: Owner) -> Any:
    """Returns the `eqx.nn.Linear`, or a sequence of two, that does what a module does; else None.

    The module has only the call, each time with one vector and perhaps a key; nobody else reads its
    fields; it has no mode of training (`eqx.nn.inference_mode`); and what it returns is the output
    of the last layer of its one chain of collapsed pairs, which reads that vector.
    """
    if owner.is_read or _has_modes(owner.run.module):
        return None
    if len(owner.fused) != 1 or owner.slopes or owner.stack or owner.run.method != "__call__":
        return None
    ((key, entry),) = owner.fused.items()
    if key.units or not all(_takes_vector(run) for run in owner.calls):
        return None
    sites = {site.path: site for site in owner.call.analysis.sites}
    chain = SiteChain(tuple(sites[path] for path in key.sites))
    program = owner.call.program
    if program.outs != [chain.last.out] or chain.first.x not in program.inputs:
        return None
    layers = [entry] if "kernel" in entry else [entry[name] for name in sorted(entry, key=int)]
    linears = [_linear(layer) for layer in layers]
    return linears[0] if len(linears) == 1 else eqx.nn.Sequential(linears)


def _has_modes(module: Any) -> bool:
    """Returns whether a module has parts that do something else in training, such as a dropout."""
    has_mode = lambda node: hasattr(node, "inference")  # noqa: E731
    return any(map(has_mode, jax.tree.leaves(module, is_leaf=has_mode)))


def _takes_vector(run: Any) -> bool:
    one = run.method == "__call__" and len(run.args) == 1 and set(run.kwargs) <= {"key"}
    return one and is_array(run.args[0]) and len(run.args[0].shape) == 1


def _linear(layer: Any) -> Any:
    """Returns the `eqx.nn.Linear` of a Dense."""
    d_in, d_out = layer["kernel"].shape
    biased = "bias" in layer
    shape = eqx.filter_eval_shape(
        eqx.nn.Linear, d_in, d_out, use_bias=biased, key=jax.random.key(0)
    )
    weight = _transposed(layer["kernel"])
    made = eqx.tree_at(lambda linear: linear.weight, shape, weight)
    return eqx.tree_at(lambda linear: linear.bias, made, layer["bias"]) if biased else made


def _transposed(kernel: Any) -> Any:
    if isinstance(kernel, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(kernel.shape[::-1], kernel.dtype)
    return jnp.asarray(kernel).T
