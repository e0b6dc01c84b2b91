"""The rows of calibration data that are held out, gathered into batches of their own."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.calibration.data import CalibrationData
from lcjax.calibration.held_out import held_out_places, rows_of
from lcjax.validation.batches import as_batch


class RowBatch(NamedTuple):
    """A batch of which some rows count.

    Attributes:
      inputs: the model's inputs.
      counts: which rows count, float32 of 0 and 1; (rows,).
    """

    inputs: tuple[Any, ...]
    counts: np.ndarray


def all_rows(data: CalibrationData) -> list[RowBatch]:
    """Returns the batches, all of whose rows count."""
    batches = map(as_batch, data.batches)
    return [RowBatch(batch, np.ones(rows_of(batch), np.float32)) for batch in batches]


def held_out_rows(data: CalibrationData) -> list[RowBatch]:
    """Returns the rows that `lcjax.calibrate` holds out, in batches no longer than the data's.

    Rows are gathered from all batches whose inputs have the same shapes, and dealt evenly to as few
    batches as hold them: one shape of batch stays one, and fewer rows than batches fill the last
    one up without counting. Batches on several devices keep their length, which the devices share.
    An input whose first axis is not that of the rows is taken from the first batch.

    Args:
      data: whose rows are held out by `holdout`; where none is, all rows are returned.
    """
    groups: dict[Any, list[tuple[tuple[Any, ...], np.ndarray]]] = {}
    start = 0
    for batch in map(as_batch, data.batches):
        length = rows_of(batch)
        taken = held_out_places(start, length, data.holdout)
        if len(taken):
            leaves, treedef = jax.tree.flatten(batch)
            forms = [_form(leaf, length) for leaf in leaves]
            groups.setdefault((treedef, str(forms)), []).append((batch, taken))
        start += length
    if not groups:
        return all_rows(data)
    return [batch for group in groups.values() for batch in _gathered(group)]


def _gathered(group: list[tuple[tuple[Any, ...], np.ndarray]]) -> Iterator[RowBatch]:
    """Yields batches of the taken rows, all of one length."""
    model, _ = group[0]
    length = rows_of(model)
    total = sum(len(taken) for _, taken in group)
    number = -(-total // length)
    rows_each = length if _is_sharded(model) else -(-total // number)
    filled = number * rows_each
    order = np.arange(filled).reshape(number, rows_each) % total
    counts = (np.arange(filled) < total).astype(np.float32).reshape(number, rows_each)

    def gather(first: Any, *others: Any) -> Any:
        if not _has_rows(first, length):
            return first
        parts = zip((first, *others), group, strict=True)
        return np.concatenate([np.asarray(leaf)[taken] for leaf, (_, taken) in parts])

    rows = jax.tree.map(gather, *(batch for batch, _ in group))

    def place(first: Any, values: Any, chosen: np.ndarray) -> Any:
        if not _has_rows(first, length):
            return first
        picked = values[chosen]
        return jax.device_put(picked, first.sharding) if isinstance(first, jax.Array) else picked

    for chosen, row_counts in zip(order, counts, strict=True):
        inputs = jax.tree.map(lambda first, values, c=chosen: place(first, values, c), model, rows)
        yield RowBatch(inputs, row_counts)


def _form(leaf: Any, rows: int) -> Any:
    """Returns the shape of one row of a leaf, or of the leaf where it has none, and its dtype."""
    return np.shape(leaf)[_has_rows(leaf, rows) :], jnp.result_type(leaf)


def _is_sharded(batch: Any) -> bool:
    """Returns whether an input is on several devices."""
    arrays = [leaf for leaf in jax.tree.leaves(batch) if isinstance(leaf, jax.Array)]
    return any(len(array.sharding.device_set) > 1 for array in arrays)


def _has_rows(leaf: Any, length: int) -> bool:
    return np.ndim(leaf) > 0 and np.shape(leaf)[0] == length
