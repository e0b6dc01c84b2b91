"""The report of a compact folder, as JSON and as text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcjax._messages import printable
from lcjax._table import render
from lcjax.validation.json_files import kind_of, read_json

REPORT = "lcjax_report.json"


def is_report(path: Path) -> bool:
    """Returns whether a path is a folder that `lcjax collapse-model` wrote."""
    return (path / REPORT).is_file()


def describe_folder(path: str | Path) -> str:
    """Returns the report of a compact folder as text.

    Args:
      path: of a folder that `collapse_model` wrote.

    Raises:
      FileNotFoundError: the folder has no report.
      ValueError: a report that is damaged.

    Example:
      >>> import lcjax
      >>> print(lcjax.folder.describe_folder("Llama-3.2-1B-small"))  # doctest: +SKIP
    """
    path = Path(path).expanduser()
    report = read_json(path / REPORT)
    try:
        return describe(report)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / REPORT}: not a whole report ({printable(error, longest=60)}); make the "
            "folder again."
        ) from error


def describe(report: Mapping[str, Any]) -> str:
    """Returns a report as text: a line for each layer, sizes and losses."""
    rows = [
        [
            str(layer["layer"]),
            became(layer),
            _number(layer["fitted"]["r2"]),
            _number(layer["held_out"]["r2"]),
            _number(layer["held_out"]["relative_error"]),
        ]
        for layer in report["layers"]
    ]
    headers = ["layer", "becomes", "R²", "held-out R²", "relative error"]
    before, after = report["before"], report["after"]
    loss, texts = report["loss"], report["calibration"]
    held_out = "held-out texts" if loss["held_out"] else "the texts fitted on"
    lines = [
        render(headers, rows, left=2),
        f"parameters  {before['parameters']:,} -> {after['parameters']:,} "
        f"({after['parameters'] / before['parameters']:.1%})",
        f"bytes       {before['bytes']:,} -> {after['bytes']:,} "
        f"({after['bytes'] / before['bytes']:.1%})",
        f"loss        {printable(loss['name'])} on {held_out}: deep {_number(loss['deep'])}, "
        f"predicted {_number(loss['predicted'])}, measured {_number(loss['measured'])}",
        f"calibration {texts['texts']:,} texts, {texts['fitted']:,} tokens fitted on, "
        f"{texts['held_out']:,} held out",
        *(f"training    {', '.join(figures(each)) or '-'}" for each in report.get("training", [])),
        *(printable(note) for note in report["notes"]),
    ]
    return "\n".join(lines)


def with_training(report: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the report of a folder whose weights were trained, perhaps once more.

    Args:
      report: before.
      training: figures, as JSON.

    Raises:
      ValueError: a report that is damaged.
    """
    before = report.get("training", [])
    if not isinstance(before, list):
        raise ValueError(f"{REPORT}, training: got {kind_of(before)}, expected an array.")
    return {**report, "training": [*before, dict(training)]}


def figures(training: Mapping[str, Any]) -> list[str]:
    """Returns figures in words, without those that are null.

    Example:
      >>> figures({"batch_size": 8, "test": {"loss": 2.10444}})
      ['batch size 8', 'test loss 2.104']
    """
    found = []
    for name, value in training.items():
        label = printable(str(name).replace("_", " "), longest=60)
        if isinstance(value, Mapping):
            found += [f"{label} {figure}" for figure in figures(value)]
        elif isinstance(value, float):
            found.append(f"{label} {value:.4g}")
        elif value is not None:
            found.append(f"{label} {printable(value, longest=200)}")
    return found


def became(layer: Mapping[str, Any]) -> str:
    """Returns what a layer's MLP became, in words."""
    match layer["form"]:
        case "deep":
            return "stays"
        case "linear":
            return "an affine map"
        case "constant":
            return "a constant"
    text = f"{layer['width']:,} of {layer['hidden']:,} units"
    return f"{text} and a linear map" if layer["linear"] else text


def few_tokens(layers: Sequence[Mapping[str, Any]], inputs: int) -> list[str]:
    """Returns a note where too few tokens were fitted on to determine every weight."""
    tokens = min((layer["fitted"]["tokens"] for layer in layers), default=inputs)
    if tokens >= inputs:
        return []
    return [f"{tokens:,} tokens were fitted on for {inputs:,} hidden units: give more texts"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
