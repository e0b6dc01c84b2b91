"""Replacements of segments whose kernels are stacked by expert, solved one expert after another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from lcjax.calibration.fits import Exact, Fit
from lcjax.errors import CollapseError
from lcjax.structure.replacement import NewLayer, Replacement, SegmentFit
from lcjax.structure.segment import Segment

Solve = Callable[[Fit, Segment, Any], Replacement]


def solve_experts(solve: Solve, fit: Fit, segment: Segment, statistics: Any) -> Replacement:
    """Returns the replacement of a segment of experts, each fitted to its own tokens.

    An expert of fewer than two tokens has its layers multiplied, which the fit's notes say.

    Args:
      solve: returns the replacement of one expert.
      fit: a fit to data.
      segment: of experts.
      statistics: with the keys of its parts.

    Raises:
      CollapseError: experts whose replacements have different shapes.
    """
    found = [_solve_one(solve, fit, part, statistics) for part in segment.parts]
    forms = {tuple(layer.replaces for layer in each.layers) for each in found}
    if len(forms) > 1 or len({_shapes(each) for each in found}) > 1:
        raise CollapseError(
            f"{segment.label}: got replacements of different shapes for its experts, expected one "
            "shape, since their kernels are stacked. Give a fixed rank, or none."
        )
    layers = []
    for group in zip(*(each.layers for each in found), strict=True):
        params = [layer.params for layer in group if layer.params is not None]
        stacked = _stacked(params, segment.experts) if params else None
        layers.append(NewLayer(stacked, group[0].replaces))
    bypasses = [each.bypass for each in found if each.bypass is not None]
    return Replacement(
        layers=tuple(layers),
        collapsed=segment.sites,
        bypass=_stacked(bypasses, segment.experts) if bypasses else None,
        fits=tuple(score for each in found for score in each.fits),
    )


def _solve_one(solve: Solve, fit: Fit, part: Segment, statistics: Any) -> Replacement:
    keys = part.sites if fit.observed == "unit" else (part.key,)
    count = min(int(statistics.train[key].count) for key in keys)
    if count > 1:
        return solve(fit, part, statistics)
    rank = getattr(fit, "rank", None)
    if fit.name == "remove":
        raise CollapseError(
            f"{part.label}: {count} tokens are routed to this expert, so that its mean output is "
            "not known. Give more data, or take another fit."
        )
    multiplied = solve(Exact(max_gap=np.inf, rank=rank), part, None)
    note = f"{count} tokens are routed to this expert: its layers are multiplied, not fitted"
    score = SegmentFit(sites=part.sites, fit=fit.name, tokens=count, notes=(note,))
    return replace(multiplied, fits=(score,))


def _shapes(each: Replacement) -> tuple[Any, ...]:
    layers = (layer.params for layer in each.layers)
    return tuple(None if params is None else params["kernel"].shape for params in layers)


def _stacked(denses: Sequence[Mapping[str, Any]], experts: Sequence[int]) -> dict[str, Any]:
    """Returns Dense layers as one, with leading axes of experts; missing biases are zeros."""
    names = dict.fromkeys(name for dense in denses for name in dense)
    found = {}
    for name in names:
        like = next(dense[name] for dense in denses if name in dense)
        arrays = [dense.get(name, jnp.zeros_like(like)) for dense in denses]
        stack = np.stack if all(isinstance(a, np.ndarray) for a in arrays) else jnp.stack
        found[name] = stack(arrays).reshape(*experts, *like.shape)
    return found
