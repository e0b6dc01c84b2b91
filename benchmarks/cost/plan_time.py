"""Time of a plan on two thousand texts: every fit of the six FFNs of MiniLM-L6.

`python -m benchmarks plan_time`: MiniLM with a new head on phrases of SST-2. One calibration serves
all fits, each is measured alone, the choice is carried out and measured. The time does not depend
on what the weights are trained for; it includes compilation.
"""

import dataclasses
import time
from pathlib import Path

import jax
import tyro

import lcjax
from benchmarks.harness.publish import RESULTS, Table, publish
from train.protocols.fit_heal import FitHeal
from train.protocols.fitting import calibration_data
from train.runs import command
from train.tasks.base import Task
from train.tasks.text.presets import PRESETS

_PRESET = "sst2-minilm"


def task_of(texts: int) -> Task:
    """Returns the task of the preset, with so many texts to calibrate on."""
    _, config = PRESETS[_PRESET]
    protocol = dataclasses.replace(config.protocol, calibration_images=texts)  # type: ignore
    config = dataclasses.replace(config, protocol=protocol)
    return command.prepare(config, {"fit-heal": FitHeal}).task


def main(texts: int = 2000, budget: float = 0.73, results_dir: Path = RESULTS) -> None:
    """Times one plan.

    Args:
      texts: to calibrate on, some of which are held out to measure on.
      budget: parameters of the planned model, as a part of the deep one's.
      results_dir: directory of results.
    """
    task = task_of(texts)
    data, apply = calibration_data(task), task.classifier.logits
    used = sum(jax.tree.leaves(batch)[0].shape[0] for batch in data.batches)
    start = time.perf_counter(), time.process_time()
    plan = lcjax.plan_fits(apply, task.variables, data, budget=lcjax.Params(budget))
    wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    fits = sum(len(site.options) - 1 for site in plan.table.sites)
    results = {
        "seconds": wall,
        "processor_seconds": processor,
        "texts": used,
        "sites": len(plan.table.sites),
        "options": fits,
        "choices_carried_out": len(plan.rounds),
    }
    headers = ("FFNs", "texts", "options", "choices carried out", "wall time", "processor time")
    row = (len(plan.table.sites), used, fits, len(plan.rounds))
    shown = (*(f"{number:,}" for number in row), f"{wall:.0f} s", f"{processor:.0f} s")
    settings = {"preset": _PRESET, "texts": texts, "budget": budget}
    publish("plan_time", settings, results, Table(headers, [shown]), results_dir=results_dir)


if __name__ == "__main__":
    tyro.cli(main)
