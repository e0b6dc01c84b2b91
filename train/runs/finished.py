"""Finished runs and their checkpoints, as starting points and teachers of other runs."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import lcjax
from lcjax._messages import printable
from lcjax.tree.paths import in_params, leaf_path, leaves_by_path
from train.data.spec import check_data_spec
from train.engine.run_directory import SUMMARY, read_json
from train.tasks.base import Task, keys
from train.tasks.distillation import with_teacher
from train.tasks.language.folder import folder_teacher, is_model_folder
from train.tasks.modalities import MODALITIES
from train.tasks.objective import Classifier
from train.validation import ConfigError

DEEP, COMPACT = "deep", "compact"


def start_from_runs(task: Task) -> Task:
    """Returns a task that starts from, and is taught by, the runs that its configuration names.

    Raises:
      ValueError: if a run does not exist, or does not fit.
    """
    config, variables = task.config, task.variables
    init, settings = config.init, config.distillation
    if init.deep is not None:
        variables = deep_variables(init.deep, like=variables)
    if init.collapsed_from is not None:
        variables = new_compact_variables(init.collapsed_from, variables, keys(config)[0])
    task = dataclasses.replace(task, variables=variables)
    if settings.teacher is None:
        return task
    taught_by = teacher(settings.teacher, task.teacher_spec)
    loss, source = with_teacher(task.classifier, task.source, *taught_by, settings)
    return dataclasses.replace(task, loss=loss, source=source)


def classifier_of(
    checkpoint: Path, *, needs: Collection[str] = ()
) -> tuple[Classifier, dict[str, Any]]:
    """Returns the classifier of a run's checkpoint, and the metadata: "kind", "model" and "data".

    Args:
      checkpoint: its origin may be unknown.
      needs: names of required fields of the data; see `train.data.spec`.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if it is damaged or not from a training run.
    """
    metadata = lcjax.read_metadata(checkpoint)
    if not isinstance(metadata, dict) or not {"kind", "model", "data"} <= metadata.keys():
        raise ValueError(
            f"{checkpoint} does not describe its model and data; expected a checkpoint of a "
            "training run, such as `python -m train.image` writes."
        )
    try:
        check_data_spec(metadata["kind"], metadata["data"], needs)
        return MODALITIES[metadata["kind"]].objective.from_metadata(metadata), metadata
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{checkpoint}: its metadata are not those of a training run "
            f"({printable(repr(error), longest=200)}); expected an unchanged checkpoint of a run, "
            "such as `python -m train.image` writes."
        ) from error


def deep_variables(path: Path, *, like: Any) -> Any:
    """Returns the deep model's variables of a finished run.

    Args:
      path: of the run, or of a checkpoint.
      like: variables of the same shapes.

    Raises:
      ValueError: if it does not exist, or has other shapes; the message lists the differences.
    """
    return lcjax.restore(_checkpoint(path), like=like)


def teacher(path: Path, data_spec: Mapping[str, Any]) -> tuple[Classifier, Any]:
    """Returns the classifier and the deep variables of a finished run on the same data.

    Args:
      path: of the run, or of a checkpoint; or a model folder with the same tokenizer.
      data_spec: fields that the description of its data must have.

    Raises:
      ValueError: if it does not exist, or is of other data.
    """
    if is_model_folder(path):
        return folder_teacher(path, data_spec)
    classifier, metadata = classifier_of(_checkpoint(path))
    known = metadata["data"]
    other = {name: known.get(name) for name in data_spec if known.get(name) != data_spec[name]}
    if other:
        raise ConfigError(
            f"{path} was trained with {other}; expected {dict(data_spec)} for a teacher."
        )
    return classifier, lcjax.restore(_checkpoint(path))


def new_compact_variables(path: Path, variables: Any, key: jax.Array) -> Any:
    """Returns new variables of the compact shapes of a run.

    These are the shapes after a collapse of the sites that the run collapsed, or, where it found a
    fit for every site, those of its compact checkpoint. A kernel that replaces others is
    initialized anew: normal, with the variance times fan-in of the kernel of the same name in
    `variables`, so that it follows the model's initializer; a map next to hidden units with that of
    its own fan-in. Its bias is 0.

    Args:
      path: of the finished run, whose summary names the sites.
      variables: of the deep model before the first step.
      key: random key.

    Raises:
      ValueError: if there is no summary, or the model does not have these sites.
    """
    initial = leaves_by_path(variables)
    shapes, new = _compact_shapes(path, variables, initial)

    def initialize(keys: Any, leaf: Any) -> jax.Array:
        name = leaf_path(keys)
        if in_params(name) not in new:
            return initial[name]
        if not name.endswith("kernel"):
            fill = float(name.endswith(("scale", "var")))  # of norms
            return jnp.full(leaf.shape, fill, leaf.dtype)
        old = initial.get(name)
        fan_in = 1.0 if old is None else jnp.std(old) * old.shape[-2] ** 0.5
        own_key = jax.random.fold_in(key, new.index(in_params(name)))
        random = jax.random.normal(own_key, leaf.shape, leaf.dtype)
        return fan_in / leaf.shape[-2] ** 0.5 * random

    return jax.tree_util.tree_map_with_path(initialize, shapes)


def _compact_shapes(
    path: Path, variables: Any, initial: Mapping[str, Any]
) -> tuple[Any, Sequence[str]]:
    """Returns the shapes of a run's compact variables, and the paths of leaves that are new."""
    if not (path / SUMMARY).is_file():
        raise ConfigError(f"{path} is not a finished run: it has no {SUMMARY}.")
    summary = read_json(path / SUMMARY)
    if summary.get("fits"):
        compact = lcjax.restore(path / COMPACT)
        found = {name: jnp.shape(leaf) for name, leaf in leaves_by_path(compact).items()}
        known = {name: leaf.shape for name, leaf in initial.items()}
        return compact, [in_params(n) for n, shape in found.items() if known.get(n) != shape]
    sites = summary.get("collapsed")
    if not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
        raise ConfigError(
            f"{path / SUMMARY} does not list the collapsed sites as strings; expected the summary "
            "of a finished run, unchanged."
        )
    if not sites:
        raise ConfigError(f"{path} collapsed no site; expected a run that did.")
    shapes, report = lcjax.abstract_collapse(variables, sites)
    return shapes, report.new_leaves


def _checkpoint(path: Path) -> Path:
    """Returns the deep checkpoint of a run, or the path itself if it is a checkpoint."""
    if (path / DEEP).exists():
        return path / DEEP
    if not path.exists():
        raise ConfigError(f"{path} does not exist; expected a finished run or a checkpoint of one.")
    return path
