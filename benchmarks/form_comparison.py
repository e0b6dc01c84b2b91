"""Methods on the deep model of one finished run, in one process: untrained, and healed.

`python -m benchmarks.form_comparison RUN linear=3e-4,1e-3 units=1e-3 variance`: every method
compresses the run's deep model to the size of its compact one, and heals it at each of its rates.
Data are read once and a method is fitted once, which takes most of the time of small networks.
Rows are written as they come; those that are there are not repeated. A method that cannot reach
the size has a row that says why.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

import lcjax
from benchmarks.baselines import base
from benchmarks.baselines.registry import REGISTRY
from benchmarks.harness.finished_runs import fit_heal_config
from train.config.base import RunConfig
from train.engine.run_directory import write_json
from train.engine.stages import run_stages
from train.runs import command
from train.runs.flags import configure_warnings
from train.runtime.memory import keep_freed_memory
from train.tasks.base import Task, keys
from train.validation import ConfigError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """Command line of a comparison."""

    source: tyro.conf.Positional[Path]
    """A finished run, whose deep model every method compresses to the size of its compact one."""
    methods: tyro.conf.Positional[tuple[str, ...]]
    """NAME, or NAME=RATE,RATE: a method, with the peak learning rates at which it is healed."""
    out: Path
    """JSON of the rows; methods and rates that it has are not repeated."""
    heal_epochs: float = 1.0
    """Epochs of healing."""
    seed: int = 0
    """Seed of the order of examples and of dropout."""


def parse_methods(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns the rates of every method, as they were given.

    Raises:
      SystemExit: for an unknown name, or a rate that is not a number.
    """
    methods: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, listed = text.partition("=")
        if name not in REGISTRY:
            sys.exit(f"error: got method {name!r}, expected one of {', '.join(REGISTRY)}.")
        methods[name] = tuple(filter(None, listed.split(",")))
        for rate in methods[name]:
            try:
                float(rate)
            except ValueError:
                sys.exit(f"error: {name}: got rate {rate!r}, expected a number.")
    return methods


def missing(rows: dict[str, Row], methods: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Returns the methods, and their rates, that the rows do not have yet and do not skip."""
    left = {
        name: tuple(rate for rate in rates if rate not in rows.get(name, {}).get("healed", {}))
        for name, rates in methods.items()
        if "skipped" not in rows.get(name, {})
    }
    return {name: rates for name, rates in left.items() if rates or name not in rows}


def read_rows(path: Path) -> dict[str, Row]:
    """Returns the rows of a file by method; none where it does not exist."""
    return json.loads(path.read_text()) if path.exists() else {}


def compare(task: Task, target: base.Target, name: str, rates: Sequence[str]) -> Row:
    """Returns the row of a method: costs, and scores untrained and healed at every rate; JSON.

    Args:
      task: with the deep model.
      target: size of the compressed model.
      name: of the method.
      rates: peak learning rates of healing.
    """
    done = REGISTRY[name].compress(task, target)
    small = done.small(done.variables) if done.small else (task.classifier.logits, done.variables)
    forms = {"deep": (task.classifier.logits, task.variables), "compact": small}
    healed = {rate: _scores(task, _healed(task, target, done, float(rate))) for rate in rates}
    timed = base.measured(task, forms)
    timed["compact"]["parameters"] = lcjax.count_parameters(done.variables) - done.removed
    return {
        "metric": task.metric.name,
        "collapsed": list(target.sites),
        **timed,
        "report": done.report,
        "times": dict(done.times),
        "untrained": _scores(task, done.variables),
        "healed": healed,
    }


def _uncompressed(task: Task, target: base.Target) -> base.Compressed:
    """Returns the deep model of a task."""
    return base.Compressed(task.variables, lambda tx: tx, 0, "")


def _scores(task: Task, variables: Any) -> dict[str, Any]:
    evaluate = task.classifier.evaluator(task.config.data.batch_size)
    splits = {"validation": task.data.validation, "test": task.data.test()}
    return {name: evaluate(variables, split) for name, split in splits.items()}


def _healed(task: Task, target: base.Target, done: base.Compressed, rate: float) -> Any:
    """Returns the variables of a compressed model after healing at a rate."""
    protocol = dataclasses.replace(task.config.protocol, heal_learning_rate=rate)  # type: ignore
    config = dataclasses.replace(task.config, protocol=protocol)
    own = dataclasses.replace(task, config=config)
    healing = base.healing(lambda *_: done, target)(own)
    with tempfile.TemporaryDirectory() as directory:
        state, _ = run_stages(
            Path(directory),
            healing.initial_state(),
            healing,
            key=keys(config)[1],
            validate=own.validate,
            config=config,
        )
    return state.variables


def main(command_line: ComparisonConfig) -> None:
    """Runs the methods that the file of rows does not have, and writes each row as it comes.

    Raises:
      SystemExit: in one line, when it cannot be done.
    """
    methods, rows = parse_methods(command_line.methods), read_rows(command_line.out)
    try:
        config = fit_heal_config(command_line.source)
        target = base.target_of(command_line.source)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    settings = {"heal_epochs": command_line.heal_epochs}
    config = dataclasses.replace(
        config,
        run=RunConfig(seed=command_line.seed),
        protocol=dataclasses.replace(config.protocol, **settings),  # type: ignore
    )
    deep = base.healing(_uncompressed, target)
    task = command.prepare(config, {"fit-heal": deep}).task
    command_line.out.parent.mkdir(parents=True, exist_ok=True)
    for name, rates in missing(rows, methods).items():
        print(f"{name}: {', '.join(rates) or 'untrained'}", flush=True)
        try:
            row = compare(task, target, name, rates)
            row["healed"] = rows.get(name, {}).get("healed", {}) | row["healed"]
        except ConfigError as error:  # the method cannot reach this size
            row = {"skipped": str(error)}
        rows[name] = row
        write_json(command_line.out, rows)


if __name__ == "__main__":
    configure_warnings()
    keep_freed_memory()
    main(tyro.cli(ComparisonConfig, description=__doc__))
