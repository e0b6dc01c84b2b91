"""The model card of a compact folder: README.md."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcjax.folder.output.remote_code import MODULE
from lcjax.folder.output.report import REPORT, describe, figures
from lcjax.validation.json_files import read_bounded

CARD = "README.md"
_METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_UNIFORM = (
    "`{}` is the only change of config.json: every program that loads the original "
    "loads this folder."
)
_MIXED = (
    f"Layers differ in form: `lcjax_forms` in config.json says how. Load the folder with "
    f"`trust_remote_code=True`; `{MODULE}.py` needs PyTorch and transformers alone. Other programs "
    "cannot load it."
)


def model_card(source: Path, report: Mapping[str, Any], *, changed: str | None) -> str:
    """Returns the card: what was done, what it costs, and the card of the original.

    Args:
      source: folder of the original.
      report: contents of lcjax_report.json.
      changed: field of config.json that alone differs; None where layers differ in form.
    """
    metadata, body = _original(source)
    lines = [
        metadata,
        f"# {source.name}, made smaller by lcjax\n",
        "Hidden units of MLPs were removed, and the last matrices of MLPs refitted by ridge "
        "regression on calibration texts, layer by layer; nothing was trained. "
        f"{_UNIFORM.format(changed) if changed else _MIXED} Numbers are in `{REPORT}`:\n",
        f"```\n{describe(report)}\n```\n",
        "R² is of the MLP's output, the relative error of the layer's output, each against the "
        "original model.\n",
    ]
    if body:
        lines.append(f"# The original's model card\n\n{body}\n")
    return "\n".join(line for line in lines if line)


def card_after_training(source: Path, training: Mapping[str, Any]) -> str:
    """Returns the card of a folder with trained weights: the figures, and the card before.

    Args:
      source: folder with the weights before training.
      training: figures, as JSON.
    """
    metadata, body = _original(source)
    lines = [
        metadata,
        f"# {source.name}, trained with lcjax\n",
        "All weights were trained. Config, tokenizer, and names, shapes and dtypes of the tensors "
        "stayed.\n",
    ]
    if training:
        shown = "\n".join(figures(training))
        lines.append(f"```\n{shown}\n```\n")
    if body:
        lines.append(f"# The model card before training\n\n{body}\n")
    return "\n".join(line for line in lines if line)


def _original(source: Path) -> tuple[str, str]:
    """Returns the metadata of a folder's card and the rest of it; "" for what it lacks."""
    card = source / CARD
    text = read_bounded(card).decode("utf-8", "replace") if card.is_file() else ""
    metadata = _METADATA.match(text)
    return metadata[0] if metadata else "", text[metadata.end() if metadata else 0 :].strip()
