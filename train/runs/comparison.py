"""Compares forms of a model: size, cost, speed, quality."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import lcjax
from lcjax._table import render
from lcjax.tree.paths import node_at
from train.runs.latency import compile_forward, flops, latencies
from train.tasks.metric import ACCURACY, Metric

Row = dict[str, Any]


def compare(
    apply: Callable[[Any, Any], Any],
    forms: dict[str, Any],
    shape: tuple[int, ...],
    batch_size: int,
    *,
    dtype: Any = np.uint8,
    each: str = "an image",
) -> dict[str, Row]:
    """Returns parameters, FLOPs per input and milliseconds per batch of each form of a model.

    Args:
      apply: `apply(variables, inputs)`.
      forms: variables by name; the first is the deep one.
      shape: of one input.
      batch_size: the larger of the two timed batches; the other has one input.
      dtype: of the inputs.
      each: name of one input, such as "an image"; its FLOPs are then "flops_per_image".
    """
    deep = next(iter(forms.values()))
    mlps = {path.rpartition("/")[0] for path in lcjax.find_sites(deep).paths}
    rows: dict[str, Row] = {
        name: {
            "parameters": lcjax.count_parameters(variables),
            "mlp_parameters": sum(
                lcjax.count_parameters(node_at(variables["params"], path)) for path in mlps
            ),
            "latency_ms": {},
        }
        for name, variables in forms.items()
    }
    for batch in sorted({1, batch_size}):
        inputs = jax.device_put(np.zeros((batch, *shape), dtype))
        compiled = {n: compile_forward(apply, tree, inputs) for n, tree in forms.items()}
        timed = latencies({n: partial(compiled[n], forms[n], inputs) for n in forms})
        for name, row in rows.items():
            row[_flops_key(each)] = flops(compiled[name]) / batch
            row["latency_ms"][str(batch)] = timed[name]
    return rows


def table(rows: dict[str, Row], each: str = "an image", metric: Metric = ACCURACY) -> str:
    """Returns the rows as a table with one column per form; `each` as for `compare`."""
    first = next(iter(rows.values()))
    lines: list[tuple[str, Callable[[Row], str]]] = [
        (f"validation {metric.name}", lambda row: metric.show(row["validation"])),
        (f"test {metric.name}", lambda row: metric.show(row["test"])),
        ("parameters", lambda row: f"{row['parameters']:,}"),
        ("  of which in MLPs", lambda row: f"{row['mlp_parameters']:,}"),
        (f"FLOPs {each}", lambda row: f"{row[_flops_key(each)]:,.0f}"),
    ]
    for batch in first["latency_ms"]:
        lines.append(
            (f"latency, batch {batch}", lambda row, b=batch: f"{row['latency_ms'][b]:.2f} ms")
        )
    cells = [(label, *(show(row) for row in rows.values())) for label, show in lines]
    return render(("", *rows), cells)


def _flops_key(each: str) -> str:
    return f"flops_per_{each.split()[1]}"
