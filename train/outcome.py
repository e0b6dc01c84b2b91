"""How a run ends: collapse, comparison on the test split, compact checkpoint, picture, summary."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import lcjax
from lcjax.checkpoint import save
from train.classifier import Classifier
from train.comparison import Row, compare, table
from train.config import Config, as_json
from train.data import ImageData
from train.evaluate import evaluate_afresh
from train.picture import draw
from train.recorder import read_metrics
from train.run_dir import SUMMARY, write_json


def conclude(
    config: Config, data: ImageData, classifier: Classifier, deep: Any, directory: Path
) -> str:
    """Collapses a trained model and writes down, in the run's directory, what that did.

    This is where the test split is looked at, and the only place. `summary.json` is written last:
    a run that has it is finished.

    Returns:
      the text of `summary.txt`.
    """
    for left_over in directory.glob("compact*"):  # of an ending that was interrupted
        shutil.rmtree(left_over)
    sites = lcjax.find_sites(deep)
    compact, report = lcjax.collapse(deep, threshold=config.penalty.threshold)
    rows = _measure(config, data, classifier, {"deep": deep, "compact": compact})
    save(directory / "compact", compact, metadata=_metadata(config, data, classifier))
    rows["compact"]["restored"] = evaluate_afresh(directory / "compact", *_flags(config))

    metrics = read_metrics(directory)
    title = f"{config.preset}: {data.name}, seed {config.run.seed}"
    draw(directory / "picture.png", title, metrics, rows)
    text = _text(config, sites, report, rows, directory)
    (directory / "summary.txt").write_text(text + "\n", encoding="utf-8")
    summary = {
        "preset": config.preset,
        "dataset": data.name,
        "seed": config.run.seed,
        "steps": metrics[-1]["step"],
        "threshold": config.penalty.threshold,
        "sites": [dataclasses.asdict(site) | {"gap": site.gap} for site in sites],
        "collapsed": list(report.collapsed),
        **rows,
    }
    write_json(directory / SUMMARY, summary)
    return text


def _measure(
    config: Config, data: ImageData, classifier: Classifier, forms: dict[str, Any]
) -> dict[str, Row]:
    batch_size = config.data.batch_size
    rows = compare(classifier.logits, forms, data.image_shape, batch_size)
    evaluate, test = classifier.evaluator(batch_size), data.test()
    for name, variables in forms.items():
        rows[name]["test"] = evaluate(variables, test)
    return rows


def _metadata(config: Config, data: ImageData, classifier: Classifier) -> dict[str, Any]:
    """Returns what `train.evaluate` needs beside the arrays."""
    return {
        "model": as_json(config.model),
        "data": {
            "dataset": config.data.dataset,
            "num_classes": data.num_classes,
            "image_size": config.data.image_size,
            "mean": list(classifier.mean),
            "std": list(classifier.std),
        },
    }


def _flags(config: Config) -> list[str]:
    flags = ["--batch-size", str(config.data.batch_size)]
    if config.data.data_dir is not None:
        flags += ["--data-dir", str(config.data.data_dir)]
    return flags


def _text(
    config: Config,
    sites: lcjax.Sites,
    report: lcjax.CollapseReport,
    rows: dict[str, Row],
    directory: Path,
) -> str:
    done = str(report)
    if not report.collapsed:
        done = (
            f"no slope came within {config.penalty.threshold:g} of 1, so nothing was collapsed and "
            f"the compact model is the deep one: raise --strength ({config.penalty.strength:g} now)"
            " or train longer."
        )
    restored = rows["compact"]["restored"]["accuracy"]
    return "\n\n".join(
        (
            f"sites after training\n\n{sites}",
            f"collapse\n\n{done}",
            f"before and after\n\n{table(rows)}",
            f"{directory / 'compact'} restored in a fresh process: test accuracy "
            f"{100 * restored:.2f} %\npicture: {directory / 'picture.png'}",
        )
    )
