"""Compact models that a run saves during training, as checkpoints `front/STEP`."""

import shutil
from pathlib import Path
from typing import Any

import lcjax
from train.runtime.devices import is_main_process, barrier

_FOLDER = "front"


def save_model(directory: Path, step: int, compact: Any, facts: dict[str, Any]) -> None:
    """Saves a compact model with facts about it as metadata."""
    lcjax.save(directory / _FOLDER / f"{step:08d}", compact, metadata={"step": step, **facts})


def delete_after(directory: Path, step: int) -> None:
    """Deletes models that an interrupted run saved after a step."""
    barrier(f"{directory} at {step}")
    for path in _paths(directory) if is_main_process() else ():
        if int(path.name[:8]) > step:
            shutil.rmtree(path)
    barrier(f"{directory} after {step}")


def list_models(directory: Path) -> list[dict[str, Any]]:
    """Returns the facts of the saved models by step, each with its path in the run."""
    return [
        lcjax.read_metadata(path) | {"path": str(path.relative_to(directory))}
        for path in _paths(directory)
    ]


def _paths(directory: Path) -> list[Path]:
    return sorted((directory / _FOLDER).glob("????????*"))
