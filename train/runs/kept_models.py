"""The compact models that a run keeps on its way: `front/STEP`, one a checkpoint."""

import shutil
from pathlib import Path
from typing import Any

import lcjax
from train.runtime.devices import is_first, wait_for_all

_FRONT = "front"


def keep(directory: Path, step: int, compact: Any, facts: dict[str, Any]) -> None:
    """Saves a compact model with facts about it."""
    lcjax.save(directory / _FRONT / f"{step:08d}", compact, metadata={"step": step, **facts})


def forget_after(directory: Path, step: int) -> None:
    """Deletes what was kept after a step, by the run that broke off."""
    wait_for_all(f"{directory} at {step}")
    for path in _paths(directory) if is_first() else ():
        if int(path.name[:8]) > step:
            shutil.rmtree(path)
    wait_for_all(f"{directory} after {step}")


def kept(directory: Path) -> list[dict[str, Any]]:
    """Returns the facts of the models that are kept, in order, each with its path in the run."""
    return [
        lcjax.read_metadata(path) | {"path": str(path.relative_to(directory))}
        for path in _paths(directory)
    ]


def _paths(directory: Path) -> list[Path]:
    return sorted((directory / _FRONT).glob("????????*"))
