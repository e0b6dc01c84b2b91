"""The report of a compact folder, as JSON and as text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcjax._messages import printable
from lcjax._table import render
from lcjax.validation.json_files import read_json

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
        *(printable(note) for note in report["notes"]),
    ]
    return "\n".join(lines)


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
