"""Measures of models: the user's metric, or outputs compared with the deep model's."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.calibration.data import CalibrationData, as_data
from lcjax.calibration.masks import Positions, counted
from lcjax.planning.measuring.held_out import RowBatch, all_rows, held_out_rows
from lcjax.planning.measuring.outputs import OutputMetric
from lcjax.validation.functions import score

_TOGETHER = 2**30  # bytes of weights and outputs of trees that are measured at a time
_KEPT = 2**28  # bytes of the deep model's outputs up to which they are computed once


class Measure(Protocol):
    """Returns the metric of trees, one each; higher is better."""

    def __call__(self, trees: Sequence[Any]) -> list[float]:
        """Returns the metrics.

        Args:
          trees: of one structure, with as many leaves in common as possible.

        Raises:
          ValueError: a metric that is not finite.
        """
        ...


class MetricMeasure:
    """The user's metric, called with one tree after another."""

    def __init__(self, metric: Callable[[Any], Any]):
        self._metric = metric

    def __call__(self, trees: Sequence[Any]) -> list[float]:
        """Returns the metrics; see `Measure`."""
        return [_finite(score(self._metric, tree)) for tree in trees]


class OutputMeasure:
    """Outputs against the deep model's, of all trees in one run over the batches.

    Values that do not depend on leaves in which trees differ, such as the activations of all layers
    before a site, are computed once for all trees.

    Args:
      run: `run(variables, *inputs)` returns the model's output.
      deep: variables of the deep model.
      metric: how outputs are compared.
      data: of which the rows held out are taken where the metric has no batches of its own.
    """

    def __init__(
        self, run: Callable[..., Any], deep: Any, metric: OutputMetric, data: CalibrationData
    ):
        self._run, self._deep, self._metric = run, deep, metric
        own = None if metric.batches is None else as_data(metric.batches)
        self._mask = (own or data).mask
        self._batches: list[RowBatch] = held_out_rows(data) if own is None else all_rows(own)

    def __call__(self, trees: Sequence[Any]) -> list[float]:
        """Returns the metrics; see `Measure`."""
        pool = _Pool([self._deep, *trees])
        size = pool.own_bytes + 3 * self._output_bytes(self._batches[0])
        runs = math.ceil(len(trees) / max(_TOGETHER // max(size, 1), 1))
        length = math.ceil(len(trees) / runs)
        program = jax.jit(self._program(pool))
        deep: list[Any] = [None] * len(self._batches)  # computed next to the trees
        if not pool.is_deep:
            deep = self._deep_outputs
        metrics: list[float] = []
        for start in range(0, len(trees), length):
            chosen = [min(start + i, len(trees) - 1) for i in range(length)]  # one shape for all
            stacked = pool.stacked(chosen)
            parts = [
                program(pool.shared, stacked, known, *batch)
                for known, batch in zip(deep, self._batches, strict=True)
            ]
            sums = np.sum([np.asarray(part, np.float64) for part in jax.device_get(parts)], axis=0)
            sums = np.broadcast_to(sums, (2, length))  # one for trees that are all alike
            with np.errstate(divide="ignore", invalid="ignore"):
                metrics += ((0 - sums[0]) / sums[1]).tolist()
        return [_finite(value) for value in metrics[: len(trees)]]

    def _program(self, pool: "_Pool") -> Callable[..., Any]:
        """Returns the sums of every tree of a pool on one batch, (2, trees)."""

        def program(
            shared: list[Any], stacked: list[Any], known: Any, inputs: Any, rows: Any
        ) -> Any:
            mask = None if self._mask is None else counted(self._mask(*inputs))[0]
            positions = Positions(jnp.asarray(rows), mask)
            deep = self._run(pool.deep(shared), *inputs) if known is None else known

            def sums(own: list[Any]) -> jax.Array:
                now = self._run(pool.tree(shared, own), *inputs)
                return jnp.stack(self._metric.sums(deep, now, positions))

            return jax.vmap(sums, out_axes=1)(stacked) if stacked else sums([])[:, None]

        return program

    @cached_property
    def _deep_outputs(self) -> list[Any]:
        """The deep model's output of every batch; None for each where they are large."""
        forms = [str(jax.tree.map(np.shape, batch.inputs)) for batch in self._batches]
        one_each = dict(zip(forms, self._batches, strict=True))
        sizes = {form: self._output_bytes(batch) for form, batch in one_each.items()}
        if sum(sizes[form] for form in forms) > _KEPT:
            return [None] * len(self._batches)
        run = jax.jit(lambda tree, *inputs: self._run(tree, *inputs))
        return [run(self._deep, *batch.inputs) for batch in self._batches]

    def _output_bytes(self, batch: RowBatch) -> int:
        shapes = jax.tree.leaves(jax.eval_shape(self._run, self._deep, *batch.inputs))
        return sum(math.prod(shape.shape) * shape.dtype.itemsize for shape in shapes)


class _Pool:
    """Leaves of a deep tree and of trees of one structure, each array once.

    Args:
      trees: the deep one, then the others.
    """

    def __init__(self, trees: Sequence[Any]):
        (deep, self._deep_def), *others = (jax.tree.flatten(tree) for tree in trees)
        self._leaves = [leaves for leaves, _ in others]
        self._def = others[0][1]
        if any(treedef != self._def for _, treedef in others):
            raise ValueError("trees: got different structures, expected one.")
        columns = list(zip(*self._leaves, strict=True))
        self._own = [
            i
            for i, column in enumerate(columns)
            if not all(_same(leaf, column[0]) for leaf in column)
        ]
        known: dict[int, int] = {}
        self.shared: list[Any] = []
        self._deep_at = [self._index(leaf, known) for leaf in deep]
        self._at = {
            i: self._index(column[0], known)
            for i, column in enumerate(columns)
            if i not in self._own
        }

    @property
    def is_deep(self) -> bool:
        """Whether the trees are the deep one, of which the distance to itself is exactly 0."""
        return not self._own and list(self._at.values()) == self._deep_at

    @property
    def own_bytes(self) -> int:
        """Bytes of the leaves that one tree has alone."""
        return sum(np.asarray(self._leaves[0][i]).nbytes for i in self._own)

    def stacked(self, chosen: Sequence[int]) -> list[Any]:
        """Returns the leaves that trees have alone, stacked over the chosen trees."""
        return [jnp.stack([jnp.asarray(self._leaves[n][i]) for n in chosen]) for i in self._own]

    def deep(self, shared: list[Any]) -> Any:
        """Returns the deep tree."""
        return jax.tree.unflatten(self._deep_def, [shared[i] for i in self._deep_at])

    def tree(self, shared: list[Any], own: list[Any]) -> Any:
        """Returns the tree of which some leaves are given."""
        given = dict(zip(self._own, own, strict=True))
        places = range(len(self._at) + len(given))
        leaves = [given[i] if i in given else shared[self._at[i]] for i in places]
        return jax.tree.unflatten(self._def, leaves)

    def _index(self, leaf: Any, known: dict[int, int]) -> int:
        """Returns the place of a leaf among the shared ones, to which it is added once."""
        if id(leaf) not in known:
            known[id(leaf)] = len(self.shared)
            self.shared.append(leaf)
        return known[id(leaf)]


def _same(a: Any, b: Any) -> bool:
    """Returns whether two leaves are one array, or equal arrays."""
    if a is b:
        return True
    alike = np.shape(a) == np.shape(b) and jnp.result_type(a) == jnp.result_type(b)
    return alike and bool(jnp.array_equal(a, b))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"metric returned {value}; expected a finite number, higher is better.")
    return value
