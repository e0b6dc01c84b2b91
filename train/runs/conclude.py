"""The end of a run: comparison on the test split, checkpoints, plot, summary."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lcjax
from lcjax._table import render
from train.runs.comparison import Row, compare, table
from train.config.base import Config, as_json
from train.runtime.devices import is_main_process, barrier
from train.runs.evaluation import evaluate_in_new_process
from train.runs.finished import COMPACT, DEEP, teacher
from train.runs.plots import plot_run
from train.runs.protocol import RunResult
from train.engine.metrics_writer import read_metrics
from train.engine.run_directory import SUMMARY, write_json
from train.tasks.base import Task


def conclude(task: Task, result: RunResult, directory: Path) -> str:
    """Evaluates a run's result and writes checkpoints, plot and summary to its directory.

    Only here is the test split read. `summary.json` is written last: it marks a run as finished.

    Returns:
      The text of `summary.txt`; "" in all processes but the first.
    """
    config = task.config
    barrier(f"{directory} is trained")
    for form in (DEEP, COMPACT) if is_main_process() else ():  # of an interrupted call
        for leftover in directory.glob(form + "*"):
            shutil.rmtree(leftover)
    barrier(f"{directory} is cleared")
    sites = lcjax.find_sites(result.deep)
    test = task.data.test()
    rows = _measure(task, {DEEP: result.deep, COMPACT: result.compact}, test)
    others = _compared_runs(task, test)
    kept_models = _with_test_scores(task, result.kept_models, directory, test)
    lcjax.save(directory / DEEP, result.deep, metadata=_metadata(task))
    lcjax.save(directory / COMPACT, result.compact, metadata=_metadata(task))
    if not is_main_process():
        return ""
    rows[COMPACT]["restored"] = evaluate_in_new_process(directory / COMPACT, *_flags(config))

    metrics = read_metrics(directory)
    title = f"{config.preset}: {task.data.name}, seed {config.run.seed}"
    shown = (
        rows
        if not others
        else {"teacher": others["teacher"], "student": rows[COMPACT]}
        | {name: row for name, row in others.items() if name != "teacher"}
    )
    plot_run(directory / "picture.png", title, metrics, shown, kept_models, task.metric)
    text = _text(task, sites, result, rows, shown, kept_models, directory)
    (directory / "summary.txt").write_text(text + "\n", encoding="utf-8")
    summary = {
        "preset": config.preset,
        "protocol": config.protocol.protocol,
        "dataset": task.data.name,
        "seed": config.run.seed,
        "steps": metrics[-1]["step"] if metrics else 0,
        "max_gap": config.penalty.max_gap,
        "metric": task.metric.name,
        "evaluation": task.data.evaluation,
        "sites": [dataclasses.asdict(site) | {"gap": site.gap} for site in sites],
        "collapsed": list(result.collapsed),
        "front": kept_models,
        **result.extra,
        **rows,
        "beside": others,
    }
    write_json(directory / SUMMARY, summary)
    return text


def _measure(task: Task, forms: dict[str, Any], test: Any) -> dict[str, Row]:
    batch_size = task.config.data.batch_size
    example = task.data.example
    rows = compare(
        task.classifier.logits,
        forms,
        example.shape,
        batch_size,
        dtype=example.dtype,
        each=task.data.each,
    )
    evaluate = task.classifier.evaluator(batch_size)
    for name, variables in forms.items():
        rows[name]["validation"] = evaluate(variables, task.data.validation)
        rows[name]["test"] = evaluate(variables, test)
    return rows


def _compared_runs(task: Task, test: Any) -> dict[str, Row]:
    """Returns the rows of a student's teacher, and of the compact model of its topology's run.

    The result is empty if the run does not train a student.
    """
    topology, teacher_run = task.config.init.collapsed_from, task.config.distillation.teacher
    if topology is None or teacher_run is None:
        return {}
    forms = {"teacher": teacher(teacher_run, {})}
    if (topology / COMPACT).is_dir():
        compact = lcjax.restore(topology / COMPACT)
        forms[f"{topology.name}'s compact"] = (task.classifier, compact)
    rows = {}
    for name, (classifier, variables) in forms.items():
        other = dataclasses.replace(task, classifier=classifier)
        rows |= _measure(other, {name: variables}, test)
    return rows


def _with_test_scores(
    task: Task, kept_models: Sequence[dict[str, Any]], directory: Path, test: Any
) -> list[dict[str, Any]]:
    """Returns the entries of models saved during training, with their scores on the test split."""
    evaluate = task.classifier.evaluator(task.config.data.batch_size)
    return [
        entry | {"test": evaluate(lcjax.restore(directory / entry["path"]), test)}
        for entry in kept_models
    ]


def _metadata(task: Task) -> dict[str, Any]:
    """Returns the metadata of checkpoints, which `train.evaluate` reads."""
    return {
        "kind": task.config.kind,
        "model": as_json(task.config.model),
        "data": task.data_spec,
    }


def _flags(config: Config) -> list[str]:
    flags = ["--batch-size", str(config.data.batch_size)]
    if config.data.data_dir is not None:
        flags += ["--data-dir", str(config.data.data_dir)]
    return flags


def _text(
    task: Task,
    sites: lcjax.Sites,
    result: RunResult,
    rows: dict[str, Row],
    shown: dict[str, Row],
    kept_models: list[dict[str, Any]],
    directory: Path,
) -> str:
    heading = "before and after" if shown is rows else "side by side"
    metric, evaluation = task.metric, task.data.evaluation
    parts = [
        f"sites after training\n\n{sites}",
        f"collapse\n\n{result.report_text}",
        f"{heading}\n\n{table(shown, task.data.each, metric)}",
        f"{directory / COMPACT} restored in a new process: test {metric.name} "
        f"{metric.show(rows[COMPACT]['restored'])}\npicture: {directory / 'picture.png'}",
    ]
    if evaluation:
        parts[2] += "\n\n" + evaluation["note"]
    if kept_models:
        cells = [
            (
                entry["path"],
                f"{len(entry['collapsed'])}",
                f"{entry['parameters']:,}",
                *(metric.show(entry[split]) for split in ("validation", "test")),
            )
            for entry in kept_models
        ]
        headers = ("compact model", "collapsed", "parameters", "validation", "test")
        parts.insert(3, f"compact models saved during training\n\n{render(headers, cells)}")
    return "\n\n".join(parts)
