"""The same share of hidden units, or the same rank, at every site, as large as budgets allow."""

from collections.abc import Sequence
from typing import NamedTuple

from lcjax.calibration.fits import Units
from lcjax.calibration.low_rank import LowRank
from lcjax.planning.budgets import Budget, Flops, Params, Usage
from lcjax.structure.front_end import Collapsible
from lcjax.structure.segment import Segment


class _Layer(NamedTuple):
    """One kernel, or those of a gated unit together.

    Attributes:
      size: elements.
      sites: of which it is the layer before or after.
    """

    size: int
    sites: list[str]


def uniform_units(
    model: Collapsible, paths: Sequence[str], budgets: Sequence[Budget], multiple: int
) -> dict[str, Units]:
    """Returns `Units` for every site, the largest share of its units that meets the budgets.

    Neighbouring sites share a layer, which is narrowed on both sides; sizes are of the kernels, so
    that biases which go too leave a little room.

    Args:
      model: the deep model.
      paths: of the sites.
      budgets: of which those of parameters and FLOPs count.
      multiple: numbers of units are multiples of it.

    Returns:
      the fits; empty where no budget counts, where none or the least share meets them, where a
      site is of experts, and where all have fewer units than the multiple.
    """
    need = _needed(model, budgets)
    pairs = {path: model.segments([path])[0].pair for path in paths}
    if need <= 0 or any(pair.experts for pair in pairs.values()):
        return {}
    layers = _layers(pairs)
    widths = {path: pair.widths[1] for path, pair in pairs.items()}
    low, high = 0, max(widths.values()) // multiple
    if not high:
        return {}
    while low < high:  # the largest share that saves enough; 0 where none does
        middle = (low + high + 1) // 2
        enough = _saved(layers, widths, _share(widths, middle, multiple)) >= need
        low, high = (middle, high) if enough else (low, middle - 1)
    counts = _share(widths, low, multiple)
    if not low or any(count >= widths[path] for path, count in counts.items()):
        return {}
    return {path: Units(count) for path, count in counts.items()}


def uniform_ranks(
    model: Collapsible, paths: Sequence[str], budgets: Sequence[Budget], multiple: int
) -> dict[str, LowRank]:
    """Returns `LowRank` for every site, of the largest rank that meets the budgets.

    Args:
      model: the deep model.
      paths: of the sites.
      budgets: of which those of parameters and FLOPs count.
      multiple: ranks are multiples of it.

    Returns:
      the fits; empty where no budget counts, where no rank meets them, and where a site is of
      experts.
    """
    need = _needed(model, budgets)
    pairs = [model.segments([path])[0].pair for path in paths]
    if need <= 0 or any(pair.experts for pair in pairs):
        return {}
    shapes = [
        layer["kernel"].shape[-2:]
        for pair in pairs
        for layer in (pair.layers[0], *pair.gates, *pair.layers[1:][: pair.ends])
    ]

    def saved(rank: int) -> int:
        return sum(max(a * b - rank * (a + b), 0) for a, b in shapes)

    enough = range(1, max(min(shape) for shape in shapes) // multiple + 1)
    ranks = [part * multiple for part in enough if saved(part * multiple) >= need]
    return {path: LowRank(ranks[-1]) for path in paths} if ranks else {}


def _needed(model: Collapsible, budgets: Sequence[Budget]) -> float:
    """Returns how many elements of kernels have to go; 0 where no budget counts."""
    size = model.size
    deep = Usage(0.0, size.parameters, size.flops, len(model.sites))
    need = [size.parameters - each.most(deep) for each in budgets if isinstance(each, Params)]
    need += [(size.flops - each.most(deep)) / 2 for each in budgets if isinstance(each, Flops)]
    return max(need, default=0)


def _layers(pairs: dict[str, Segment]) -> list[_Layer]:
    layers: dict[str, _Layer] = {}
    for path, pair in pairs.items():
        number = (1 + len(pair.gates), 1)
        for name, params, kernels in zip(pair.names, pair.layers, number, strict=True):
            d_in, d_out = params["kernel"].shape[-2:]
            layers.setdefault(name, _Layer(kernels * d_in * d_out, [])).sites.append(path)
    return list(layers.values())


def _share(widths: dict[str, int], part: int, multiple: int) -> dict[str, int]:
    """Returns counts in proportion to widths: `part` multiples of the widest; at least one each."""
    widest = max(widths.values()) // multiple
    return {
        path: max(width // multiple * part // widest, 1) * multiple
        for path, width in widths.items()
    }


def _saved(layers: list[_Layer], widths: dict[str, int], counts: dict[str, int]) -> float:
    """Returns how many elements of kernels counts of units save."""
    saved = 0.0
    for layer in layers:
        left = float(layer.size)
        for path in layer.sites:
            left *= counts[path] / widths[path]
        saved += layer.size - left
    return saved
