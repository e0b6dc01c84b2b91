"""Compiles and times one part of a model in all forms."""

import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from benchmarks.accelerator.forms import FORMS, form_shapes
from benchmarks.accelerator.models import Model
from benchmarks.accelerator.peaks import PEAKS
from benchmarks.accelerator.programs import Part
from benchmarks.harness.timing import interleaved

WARMUP = 2


def measure(model: Model, part: Part, rounds: int) -> list[dict[str, Any]]:
    """Returns one row a form: its time, share of the peak, and speed-up over the deep form.

    All forms are compiled at once, in threads, then timed interleaved.

    Args:
      model: of the benchmark.
      part: of the model.
      rounds: timed calls of each form.
    """
    deep = model.network.abstract("deep")
    shapes = {form: form_shapes(deep, form) for form in FORMS}
    lowered = {form: part.lower(form, shapes[form]) for form in FORMS}
    start, before = time.perf_counter(), _processor_seconds()
    with ThreadPoolExecutor(len(FORMS)) as pool:
        programs = pool.map(lambda form: lowered[form].compile(), FORMS)
        compiled = dict(zip(FORMS, programs, strict=True))
    spent = {
        "seconds": time.perf_counter() - start,
        **{name: value - before[name] for name, value in _processor_seconds().items()},
    }
    calls = {form: part.ready(form, shapes[form], compiled[form]) for form in FORMS}
    seconds = {
        form: statistics.median(each)
        for form, each in interleaved(calls, rounds=rounds, warmup=WARMUP).items()
    }
    demand = {form: part.demand(lowered[form], shapes[form]) for form in FORMS}
    return [
        {
            "model": model.name,
            "batch": part.batch,
            "part": part.name,
            "form": form,
            "seconds": seconds[form],
            "per_second": part.units / seconds[form],
            "unit": model.network.unit,
            part.bound_by: demand[form],
            "share_of_peak": _share(demand[form] / seconds[form], part.bound_by),
            "speed_up": seconds["deep"] / seconds[form],
            "promised": demand["deep"] / demand[form],
            "compilation": spent,
        }
        for form in FORMS
    ]


def line(rows: list[dict[str, Any]]) -> str:
    """Returns what a part's rows say, in one line a form."""
    first, spent = rows[0], rows[0]["compilation"]
    processor = (
        f" (processor {spent['user']:.0f} s, kernel {spent['system']:.0f} s)"
        if "user" in spent
        else ""
    )
    texts = [
        f"{first['model']}, batch {first['batch']}, {first['part']}; "
        f"compiled in {spent['seconds']:.0f} s{processor}"
    ]
    for row in rows:
        text = f"{row['form']}: {1e3 * row['seconds']:.2f} ms, "
        text += f"{row['per_second']:,.0f} {row['unit']} a second"
        if row["share_of_peak"] is not None:
            text += f", {row['share_of_peak']:.0%} of the peak"
        if row["form"] != "deep" and row["speed_up"] is not None:
            text += f", {row['speed_up']:.2f} times as fast; promised {row['promised']:.2f}"
        texts.append(f"        {text}")
    return "\n".join(texts)


def _share(rate: float, resource_name: str) -> float | None:
    peak = PEAKS.get(jax.devices()[0].device_kind)
    return None if peak is None else rate / getattr(peak, resource_name)


def _processor_seconds() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"user": used.ru_utime, "system": used.ru_stime}
