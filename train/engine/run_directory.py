"""The directory of a run: creates it, and finds it for resumption."""

import json
import os
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from lcjax._messages import printable
from lcjax.validation import json_files
from train.config.base import RunConfig
from train.config.old_runs import upgraded

CONFIG, SUMMARY = "config.json", "summary.json"
# Flags that may change between a run and its resumption.
_FREE = (
    ("run", "name"),
    ("run", "resume"),
    ("run", "overwrite"),
    ("run", "runs_dir"),
    ("data", "data_dir"),
    ("run", "log_every"),
    ("run", "checkpoint_every"),
    ("run", "keep"),
    ("devices",),
    ("kind",),  # earlier versions did not store it; it follows from the preset
)
# Flags that extend a run: one with a single stage, and one whose last stage heals.
_EPOCHS, _HEAL_EPOCHS = ("optimizer", "epochs"), ("protocol", "heal_epochs")
_STAGES = "stages"


class RunError(ValueError):
    """A run's directory is not in the expected state."""


def choose_directory(run: RunConfig, preset: str, config: dict[str, Any]) -> Path:
    """Returns the directory of a new run, or of the run to resume. Writes nothing.

    Without a name it is called like the preset, with a number if that is taken.

    Args:
      run: section of the configuration.
      preset: name of the preset.
      config: the whole configuration, as JSON.

    Raises:
      RunError: if the name is taken or not a name; with `resume`, if there is no such run, if it is
        finished and not to be extended, or if it has another configuration.
    """
    if run.resume and run.overwrite:
        raise RunError("--resume and --overwrite are both set; expected one of them.")
    if run.name is None:
        if run.resume or run.overwrite:
            flag = "--resume" if run.resume else "--overwrite"
            raise RunError(f"{flag} needs the --name of a run.")
        names = (preset if i == 1 else f"{preset}-{i}" for i in count(1))
        return next(path for path in map(run.runs_dir.joinpath, names) if not path.exists())
    if not run.name or Path(run.name).name != run.name or run.name.startswith("."):
        raise RunError(
            f"--name is {run.name!r}; expected the name of a directory, without a slash."
        )
    path = run.runs_dir / run.name
    if run.resume:
        _check_resumable(path, config)
    elif path.exists() and not run.overwrite:
        raise RunError(
            f"{path} exists. Choose another --name, continue an unfinished run with --resume, or "
            "replace it with --overwrite."
        )
    elif path.exists() and not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run: it has no {CONFIG}. --overwrite replaces runs only.")
    return path


def create_directory(path: Path, config: dict[str, Any], *, overwrite: bool = False) -> None:
    """Creates a run's directory together with its configuration, atomically.

    Args:
      path: from `choose_directory`.
      config: the whole configuration, as JSON.
      overwrite: whether to replace the run in this directory.

    Raises:
      RunError: if it cannot be created, or another run has taken it in the meantime.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as draft:
            content = Path(draft, path.name)
            content.mkdir()
            write_json(content / CONFIG, config)
            if overwrite and path.exists():
                path.rename(Path(draft, "old"))
            content.rename(path)  # fails if the path exists
    except OSError as error:
        raise RunError(
            f"{path} cannot be created: {error}. Choose another --name or --runs-dir."
        ) from error


def reopen_directory(path: Path, config: dict[str, Any]) -> None:
    """Marks a run as unfinished, and extends it to the epochs of this configuration.

    Args:
      path: from `choose_directory`, of a run to resume.
      config: the whole configuration, as JSON.
    """
    (path / SUMMARY).unlink(missing_ok=True)  # first: without it the run can be resumed
    started = upgraded(read_json(path / CONFIG))
    longer = {place: _at(config, place) for place in (_EPOCHS, _HEAL_EPOCHS)}
    for (section, name), value in longer.items():
        if value is not None and section in started:
            started[section][name] = value
    write_json(path / CONFIG, started)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file of a run; it may contain NaN, as of a diverged run.

    Raises:
      RunError: if it is damaged, too large, or not an object; names it.
    """
    return json_files.read_json(path, error=RunError, allow_nan=True)


def _check_resumable(path: Path, config: dict[str, Any]) -> None:
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run: it has no {CONFIG}. Start it without --resume.")
    started = upgraded(read_json(path / CONFIG))
    staged = (path / _STAGES).is_dir()
    here = _HEAL_EPOCHS if staged else _EPOCHS
    was, now = _at(started, here), _at(config, here)
    longer = was is not None and now is not None and now > was
    changed = _differences(started, config, free=(*_FREE, here) if longer else _FREE)
    if changed:
        raise RunError(
            f"{path} was started with another configuration: {'; '.join(changed)}. Resume it "
            f"without these flags, with more --{here[1].replace('_', '-')} to extend it, or start "
            "another --name."
        )
    if (path / SUMMARY).exists() and not longer:
        raise RunError(
            f"{path} is finished: see its summary.txt. Set --{here[1].replace('_', '-')} to more "
            f"than {was} to train longer, or start another --name."
        )


def _at(config: dict[str, Any], place: tuple[str, ...]) -> Any:
    for name in place:
        config = config.get(name, {})
    return None if isinstance(config, dict) else config


def _differences(
    old: dict[str, Any], new: dict[str, Any], *above: str, free: Sequence[tuple[str, ...]]
) -> list[str]:
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        here, was, now = (*above, key), old.get(key), new.get(key)
        if here in free:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            found += _differences(was, now, *here, free=free)
        elif was != now:
            found.append(f"{printable(key)} was {printable(repr(was), longest=60)}, is {now!r}")
    return found
