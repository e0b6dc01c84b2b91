"""Writes a trained model as a folder: `python -m train.language export RUN FOLDER`.

The run is one of `python -m train.language --pretrained OUT`. FOLDER is like OUT, for transformers
and servers, with the trained weights. Figures of the run go to its model card and, where OUT has
one, its lcjax_report.json.
"""

from pathlib import Path
from typing import Any

import tyro

import lcjax
from lcjax._messages import printable
from lcjax.folder import save_model
from lcjax.interop import model_from_config, resolve_source
from lcjax.models import Decoder
from train.data.text.tokenizer import FILE
from train.data.text.vocabulary import Pieces
from train.engine.run_directory import CONFIG, SUMMARY, read_json
from train.runs.finished import COMPACT, classifier_of
from train.validation import ConfigError

_SETTINGS = {
    "model": ("context",),
    "data": ("batch_size",),
    "optimizer": ("epochs", "learning_rate", "weight_decay"),
    "run": ("seed",),
}
_OF_TEACHER = ("teacher_weight", "teacher_temperature", "hidden_weight")


def export(
    run: tyro.conf.Positional[Path],
    folder: tyro.conf.Positional[Path],
    /,
    *,
    pretrained: Path | None = None,
) -> Path:
    """Writes the trained model of a run as a model folder, and returns its path.

    Args:
      run: directory of a finished run of a model folder, such as runs/folder.
      folder: to create.
      pretrained: the folder that the run started from; by default where it was then.

    Raises:
      FileNotFoundError: if there is no such run, or its folder is gone.
      FileExistsError: if the folder to create exists.
      ValueError: if the run is not of a model folder, or has collapsed sites; if its folder is
        another one now; if it is damaged.
    """
    if not (run / SUMMARY).is_file():
        raise ConfigError(
            f"{run} is not a finished run: it has no {SUMMARY}; expected one's directory, such as "
            "runs/folder."
        )
    summary = read_json(run / SUMMARY)
    model, metadata = classifier_of(run / COMPACT, needs=("tokens",))
    name = metadata["model"].get("pretrained") if isinstance(metadata["model"], dict) else None
    if not isinstance(name, str) or not isinstance(model.module, Decoder):
        raise ConfigError(
            f"{run} trained a {type(model.module).__name__} that is not from a model folder; "
            "expected a run of `python -m train.language --pretrained FOLDER`."
        )
    if summary.get("collapsed") or summary.get("fits"):
        raise ConfigError(
            f"{run} collapsed sites, of which its folder has no form; expected a run that trains "
            "the model as it is, such as one of the preset folder without other protocols."
        )
    source = _resolved(name) if pretrained is None else pretrained
    _check_same(source, model.module, metadata)
    figures = _figures(run, summary)
    save_model(folder, lcjax.restore(run / COMPACT), like=source, training=figures)
    return folder


def _resolved(name: str) -> Path:
    try:
        return resolve_source(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Give --pretrained if it was moved.") from error


def _check_same(source: Path, module: Decoder, metadata: dict[str, Any]) -> None:
    """Raises if the network or the tokenizer of a folder is not that of a run."""
    found = model_from_config(source)
    if not isinstance(found, Decoder) or found.config != module.config:
        raise ConfigError(
            f"{source}/config.json describes another network than the run's; expected the folder "
            "that the run started from."
        )
    if Pieces.from_folder(source).as_json() != metadata["data"]["tokens"]:
        raise ConfigError(
            f"{source}/{FILE} differs from the run's; expected the folder that it started from."
        )


def _figures(run: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Returns what the model card says of a run; paths by their last part."""
    config = read_json(run / CONFIG)
    try:
        found = {"dataset": Path(config["data"]["dataset"]).name, "steps": summary["steps"]}
        for section, names in _SETTINGS.items():
            found |= {name: config[section][name] for name in names}
        teaching = config["distillation"]
        if teaching["teacher"] is not None:
            found["teacher"] = Path(teaching["teacher"]).name
            found |= {name: teaching[name] for name in _OF_TEACHER}
        scores = {split: summary[COMPACT][split] for split in ("validation", "test")}
        return found | {split: {"loss": each["loss"]} for split, each in scores.items()}
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{run}: {CONFIG} or {SUMMARY} lacks {printable(error, longest=60)}; expected those "
            "of a finished run, unchanged."
        ) from error
