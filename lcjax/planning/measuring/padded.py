"""Replacements of one site in one form, so that trees with different fits have equal shapes."""

import jax.numpy as jnp
import numpy as np

from lcjax.structure.replacement import NewLayer, Replacement
from lcjax.structure.segment import Segment


def padded(pair: Segment, replacement: Replacement | None) -> Replacement:
    """Returns a replacement that computes the same with all hidden units and a linear map.

    Units that do not stay have zeros in the last kernel, and a fit without a linear map has zeros
    in that of the bypass: the same to rounding, at the cost of the largest.

    Args:
      pair: the two layers around the site.
      replacement: of the site; None keeps it.
    """
    last = pair.layers[-1]
    kernel = np.asarray(last["kernel"], np.float32)
    dtype = last["kernel"].dtype
    whole, linear = np.zeros_like(kernel), np.zeros((pair.d_in, pair.d_out), np.float32)
    if replacement is None:
        earlier = pair.joints[0].bypass or {"bias": last.get("bias", np.zeros(pair.d_out))}
        whole, bias, linear = kernel, earlier["bias"], earlier.get("kernel", linear)
    elif replacement.collapsed:
        linear, bias = _product(pair, replacement)
    else:
        bypass = replacement.bypass or {}
        bias, linear = bypass["bias"], bypass.get("kernel", linear)
        if replacement.units is not None:
            params = replacement.layers[-1].params or last
            whole[replacement.units] = np.asarray(params["kernel"], np.float32)
    bypass = {"kernel": jnp.asarray(linear, dtype), "bias": jnp.asarray(bias, dtype)}
    return Replacement(
        layers=(NewLayer(None, (0,)), NewLayer({"kernel": jnp.asarray(whole, dtype)}, (1,))),
        collapsed=(),
        bypass=bypass,
    )


def _product(pair: Segment, replacement: Replacement) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a replacement by matrices alone; of a removed pair zeros."""
    kernel, bias = np.eye(pair.d_in), np.zeros(pair.d_in)
    if not replacement.layers:
        return np.zeros((pair.d_in, pair.d_out)), np.asarray((replacement.bypass or {})["bias"])
    for params, replaces in replacement.layers:
        layer = pair.layers[replaces[-1]] if params is None else params
        factor = np.asarray(layer["kernel"], np.float64)
        kernel, bias = kernel @ factor, bias @ factor + np.asarray(layer.get("bias", 0.0))
    return kernel, bias
