"""Replacements of one site in one form, so that trees with different fits have equal shapes."""

import numpy as np

from lcjax.algebra.bypasses import split_dense
from lcjax.algebra.fuse import DenseParams, fuse_dense
from lcjax.algebra.sharding import place_dense
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
    first, last = pair.layers[0], pair.layers[-1]
    kernel = np.asarray(last["kernel"], np.float64)
    whole, linear = np.zeros_like(kernel), np.zeros((pair.d_in, pair.d_out))
    if replacement is None:
        whole, bias = kernel, last.get("bias", np.zeros(pair.d_out))
        if pair.joints[0].bypass is not None:
            bias = pair.joints[0].bypass["bias"]
            linear = pair.joints[0].bypass.get("kernel", linear)
    elif not replacement.layers:
        bias = (replacement.bypass or {})["bias"]
    elif replacement.collapsed:
        linear, bias = _product(pair, replacement)
    elif replacement.units is None:
        return padded(pair, None) if _unchanged(replacement) else _multiplied(pair, replacement)
    else:
        bypass = replacement.bypass or {}
        bias, linear = bypass["bias"], bypass.get("kernel", linear)
        params = replacement.layers[-1].params or last
        whole[replacement.units] = np.asarray(params["kernel"], np.float64)
    bypass = place_dense(np.asarray(linear), np.asarray(bias), first, last)
    whole = place_dense(whole, None, last, last)["kernel"]
    return Replacement(
        layers=(NewLayer(None, (0,)), NewLayer({"kernel": whole}, (1,))),
        collapsed=(),
        units=np.arange(pair.widths[1]),
        bypass=bypass,
    )


def _unchanged(replacement: Replacement) -> bool:
    return all(layer.params is None for layer in (*replacement.layers, *replacement.gates))


def _multiplied(pair: Segment, replacement: Replacement) -> Replacement:
    """Returns a replacement whose layers are whole, each the product of its factors."""
    (first, last), (new_first, new_last) = pair.layers, replacement.layers
    before, after = _whole(first, new_first), _whole(last, new_last, replacement.bypass)
    bypass = pair.joints[0].bypass
    if bypass is None:
        bias = np.zeros(pair.d_out, after["kernel"].dtype)
        after = {"bias": place_dense(after["kernel"], bias, after, after)["bias"], **after}
    elif replacement.bypass is not None:
        bypass, after = split_dense(after, 0)
    gates = zip(pair.gates, replacement.gates, strict=True)
    return Replacement(
        layers=(NewLayer(before, (0,)), NewLayer(after, (1,))),
        collapsed=(),
        bypass=bypass,
        gates=tuple(NewLayer(_whole(gate, new), new.replaces) for gate, new in gates),
    )


def _whole(layer: DenseParams, new: NewLayer, bypass: DenseParams | None = None) -> DenseParams:
    """Returns what takes the place of a layer, as one matrix; the layer where it stays.

    With the bias of a bypass that is added between its factors.
    """
    if new.params is None or new.factor is None:
        return layer if new.params is None else new.params
    return fuse_dense([{**new.factor, **(bypass or {})}, new.params])


def _product(pair: Segment, replacement: Replacement) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a replacement by matrices alone."""
    kernel, bias = np.eye(pair.d_in), np.zeros(pair.d_in)
    for params, replaces, _ in replacement.layers:
        layer = pair.layers[replaces[-1]] if params is None else params
        factor = np.asarray(layer["kernel"], np.float64)
        kernel, bias = kernel @ factor, bias @ factor + np.asarray(layer.get("bias", 0.0))
    return kernel, bias
