"""Pairs of Dense layers around an activation: their hidden units, moments and removal."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import lcjax
from benchmarks.baselines.trees import at_path, replace_at
from lcjax.algebra.moments import Moments
from lcjax.calibration.statistics import collect_statistics
from lcjax.structure.capture import ValueName, capture
from lcjax.structure.chains.chain import Chain, join
from lcjax.structure.chains.find import find_chains
from train.validation import ConfigError


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two Dense layers with an activation between them, whose units can be removed.

    Attributes:
      site: path of the activation.
      first: paths of the Dense layers whose columns are the units: one, or gate and up.
      last: path of the Dense layer whose rows are the units.
      bypass: path of the map that holds the bias of the last layer once the pair is narrower.
    """

    site: str
    first: tuple[str, ...]
    last: str
    bypass: str

    def width(self, params: Any) -> int:
        """Returns the number of hidden units."""
        return at_path(params, self.last)["kernel"].shape[0]

    def bias(self, params: Any) -> np.ndarray:
        """Returns the bias of the last layer, zeros where it has none, float64 (d_out,)."""
        last = at_path(params, self.last)
        width = last["kernel"].shape[1]
        return np.asarray(last.get("bias", np.zeros(width)), np.float64)


def find_pairs(params: Any) -> list[Pair]:
    """Returns all pairs in forward order.

    Raises:
      ConfigError: for an MLP that has norms, is in factors, or is stacked by `nn.scan`.
    """
    return [pair for chain in find_chains(params) for pair in _pairs(chain)]


def _pairs(chain: Chain) -> list[Pair]:
    stacked = any(dense["kernel"].ndim > 2 for dense in chain.denses.values())
    if chain.norms or stacked or len(chain.denses) != len(chain.acts) + 1:
        raise ConfigError(
            f"{chain.path}: got an MLP that is stacked, in factors or with norms, expected Dense "
            "layers with an activation between each two."
        )
    pairs = []
    for i in chain.acts:
        gate = () if chain.gate is None else (join(chain.path, "gate"),)
        pairs.append(
            Pair(
                site=chain.site(i),
                first=(join(chain.path, chain.dense_name(i)), *gate),
                last=join(chain.path, chain.dense_name(chain.after(i))),
                bypass=join(chain.path, "bypass" if gate else f"bypass_{i}"),
            )
        )
    return pairs


def dense_moments(
    apply_fn: Callable[..., Any], variables: Any, data: Any, paths: Collection[str]
) -> dict[str, Moments]:
    """Returns the moments of inputs and outputs of Dense layers, by path.

    Args:
      apply_fn: runs the model, `apply_fn(variables, *batch)`.
      variables: of the model.
      data: `lcjax.CalibrationData`; nothing is held out.
      paths: of the layers inside params.
    """
    pairs = {path: (ValueName("input", path), ValueName("output", path)) for path in paths}
    return moments(apply_fn, variables, data, lambda values: {
        path: zip(values[x], values[t], strict=True) for path, (x, t) in pairs.items()
    }, [name for pair in pairs.values() for name in pair])  # fmt: skip


def moments(
    apply_fn: Callable[..., Any],
    variables: Any,
    data: Any,
    select: Callable[[Any], Mapping[str, Any]],
    names: Collection[ValueName],
) -> dict[str, Moments]:
    """Returns moments of pairs (x, t) that are computed from values of modules, by key.

    Args:
      apply_fn: runs the model, `apply_fn(variables, *batch)`.
      variables: of the model.
      data: `lcjax.CalibrationData`; nothing is held out.
      select: returns the pairs by key, one for every call, from the values by name.
      names: of the values.
    """

    def observe(variables: Any, _: Any, batch: tuple[Any, ...]) -> Any:
        selected = select(capture(apply_fn, variables, batch, names))
        return {key: list(pairs) for key, pairs in selected.items()}

    data = dataclasses.replace(data, holdout=0.0)
    return collect_statistics(observe, variables, data, "segment").train


def cut(params: Any, pair: Pair, units: np.ndarray, kernel: Any, bias: Any) -> Any:
    """Returns params in which a pair has these hidden units only.

    Args:
      params: nested dicts.
      pair: to cut.
      units: indices of the units that stay, (k,).
      kernel: of the last layer, (k, d_out).
      bias: that is added to its output, (d_out,).
    """
    units = np.sort(units)
    found = {path: _columns(at_path(params, path), units) for path in pair.first}
    slope = at_path(params, pair.site)["slope"]
    found[pair.site] = {"slope": slope[units] if slope.ndim else slope}
    for other in find_pairs(params):
        if other.last in pair.first and other.bypass.split("/")[-1] in _parent(params, other):
            found[other.bypass] = _columns(at_path(params, other.bypass), units)
    dtype = at_path(params, pair.last)["kernel"].dtype
    found[pair.last] = {"kernel": jnp.asarray(kernel, dtype)}
    found[pair.bypass] = {"bias": jnp.asarray(bias, dtype)}
    return replace_at(params, found)


def _columns(dense: Mapping[str, Any], units: np.ndarray) -> dict[str, Any]:
    return {name: leaf[..., units] for name, leaf in dense.items()}


def _parent(params: Any, pair: Pair) -> Mapping[str, Any]:
    return at_path(params, pair.bypass.rpartition("/")[0])


def narrow_size(params: Any, pairs: Sequence[Pair], counts: Mapping[str, int]) -> int:
    """Returns the parameters of a network after these pairs are cut to so many units.

    Args:
      params: of the network.
      pairs: of the network.
      counts: units that stay, by the site of the pair; all where it is missing.
    """
    rows = {pair.last: counts[pair.site] for pair in pairs if pair.site in counts}
    columns = {p: counts[each.site] for each in pairs if each.site in counts for p in each.first}
    total = lcjax.count_parameters(params)
    for path in rows.keys() | columns.keys():
        dense = at_path(params, path)
        d_in, d_out = map(int, dense["kernel"].shape)
        height, width = rows.get(path, d_in), columns.get(path, d_out)
        total -= d_in * d_out + ("bias" in dense) * d_out
        total += height * width + ("bias" in dense or path in rows) * width
    return total
