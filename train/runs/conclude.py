"""How a run ends: comparison on the test split, checkpoints, picture, summary."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lcjax
from lcjax.io.checkpoint import restore, save
from lcjax._table import render
from train.runs.comparison import Row, compare, table
from train.config.base import Config, as_json
from train.runtime.devices import is_first, wait_for_all
from train.evaluate import evaluate_afresh
from train.runs.finished import COMPACT, DEEP, teacher
from train.runs.plots import draw
from train.protocols import Ending
from train.engine.metrics_writer import read_metrics
from train.engine.run_directory import SUMMARY, write_json
from train.tasks.base import Task


def conclude(task: Task, ending: Ending, directory: Path) -> str:
    """Writes down, in the run's directory, what a run came to.

    This is where the test split is looked at, and the only place. `summary.json` is written last:
    a run that has it is finished.

    Returns:
      the text of `summary.txt`; nothing in all processes but the first.
    """
    config = task.config
    wait_for_all(f"{directory} is trained")
    for form in (DEEP, COMPACT) if is_first() else ():  # of an ending that was interrupted
        for left_over in directory.glob(form + "*"):
            shutil.rmtree(left_over)
    wait_for_all(f"{directory} is cleared")
    sites = lcjax.find_sites(ending.deep)
    test = task.data.test()
    rows = _measure(task, {DEEP: ending.deep, COMPACT: ending.compact}, test)
    beside = _beside(task, test)
    front = _tested(task, ending.front, directory, test)
    save(directory / DEEP, ending.deep, metadata=_metadata(task))
    save(directory / COMPACT, ending.compact, metadata=_metadata(task))
    if not is_first():
        return ""
    rows[COMPACT]["restored"] = evaluate_afresh(directory / COMPACT, *_flags(config))

    metrics = read_metrics(directory)
    title = f"{config.preset}: {task.data.name}, seed {config.run.seed}"
    shown = (
        rows
        if not beside
        else {"teacher": beside["teacher"], "student": rows[COMPACT]}
        | {name: row for name, row in beside.items() if name != "teacher"}
    )
    draw(directory / "picture.png", title, metrics, shown, front, task.metric)
    text = _text(task, sites, ending, rows, shown, front, directory)
    (directory / "summary.txt").write_text(text + "\n", encoding="utf-8")
    summary = {
        "preset": config.preset,
        "protocol": config.protocol.protocol,
        "dataset": task.data.name,
        "seed": config.run.seed,
        "steps": metrics[-1]["step"] if metrics else 0,
        "threshold": config.penalty.threshold,
        "metric": task.metric.name,
        "evaluation": task.data.evaluation,
        "sites": [dataclasses.asdict(site) | {"gap": site.gap} for site in sites],
        "collapsed": list(ending.collapsed),
        "front": front,
        **ending.facts,
        **rows,
        "beside": beside,
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


def _beside(task: Task, test: Any) -> dict[str, Row]:
    """Returns, of a student of a run's topology, the rows of its teacher and of that run's compact.

    Nothing where the run is none of a student.
    """
    protocol = task.config.protocol
    if protocol.collapsed_from is None or protocol.teacher is None:
        return {}
    forms = {"teacher": teacher(protocol.teacher, {})}
    fused = protocol.collapsed_from / COMPACT
    if fused.is_dir():
        forms[f"{protocol.collapsed_from.name}'s compact"] = (task.classifier, restore(fused))
    rows = {}
    for name, (classifier, variables) in forms.items():
        own = dataclasses.replace(task, classifier=classifier)
        rows |= _measure(own, {name: variables}, test)
    return rows


def _tested(
    task: Task, front: Sequence[dict[str, Any]], directory: Path, test: Any
) -> list[dict[str, Any]]:
    """Returns what is known of models that were kept on the way, with their scores on the test."""
    evaluate = task.classifier.evaluator(task.config.data.batch_size)
    return [entry | {"test": evaluate(restore(directory / entry["path"]), test)} for entry in front]


def _metadata(task: Task) -> dict[str, Any]:
    """Returns what `train.evaluate` needs beside the arrays."""
    return {
        "kind": task.config.kind,
        "model": as_json(task.config.model),
        "data": task.known,
    }


def _flags(config: Config) -> list[str]:
    flags = ["--batch-size", str(config.data.batch_size)]
    if config.data.data_dir is not None:
        flags += ["--data-dir", str(config.data.data_dir)]
    return flags


def _text(
    task: Task,
    sites: lcjax.Sites,
    ending: Ending,
    rows: dict[str, Row],
    shown: dict[str, Row],
    front: list[dict[str, Any]],
    directory: Path,
) -> str:
    heading = "before and after" if shown is rows else "side by side"
    metric, told = task.metric, task.data.evaluation
    parts = [
        f"sites after training\n\n{sites}",
        f"collapse\n\n{ending.account}",
        f"{heading}\n\n{table(shown, task.data.each, metric)}",
        f"{directory / COMPACT} restored in a fresh process: test {metric.name} "
        f"{metric.show(rows[COMPACT]['restored'])}\npicture: {directory / 'picture.png'}",
    ]
    if told:
        parts[2] += "\n\n" + told["about"]
    if front:
        cells = [
            (
                entry["path"],
                f"{len(entry['collapsed'])}",
                f"{entry['parameters']:,}",
                *(metric.show(entry[split]) for split in ("validation", "test")),
            )
            for entry in front
        ]
        headers = ("compact model", "sites gone", "parameters", "validation", "test")
        parts.insert(3, f"kept on the way\n\n{render(headers, cells)}")
    return "\n\n".join(parts)
