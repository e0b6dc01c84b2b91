"""Finished runs and their checkpoints, as other runs start from them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import lcjax
from lcjax.tree.paths import in_params, leaf_path
from lcjax._messages import printable
from train.tasks.objective import Classifier
from train.tasks.image.objective import ImageClassifier
from train.data.spec import check_known
from train.tasks.language.objective import LanguageModel
from train.validation import ConfigError
from train.engine.run_directory import SUMMARY, read_json
from train.tasks.text.objective import TextClassifier

DEEP, COMPACT = "deep", "compact"
_CLASSIFIERS = {"image": ImageClassifier, "text": TextClassifier, "language": LanguageModel}


def classifier_of(
    checkpoint: Path, *, needs: Collection[str] = ()
) -> tuple[Classifier, dict[str, Any]]:
    """Returns the classifier that a run's checkpoint is of, and what is known of it.

    The latter is the checkpoint's metadata: "kind", "model" and "data".

    Args:
      checkpoint: of any origin.
      needs: names of what has to be known of the data; see `train.data.spec`.

    Raises:
      FileNotFoundError: when there is no checkpoint.
      ValueError: when it is damaged or not one of a training run.
    """
    metadata = lcjax.read_metadata(checkpoint)
    if not isinstance(metadata, dict) or not {"kind", "model", "data"} <= metadata.keys():
        raise ValueError(
            f"{checkpoint} does not say what model and data it is of; wanted a checkpoint that "
            "`python -m train.image` or a command like it made."
        )
    try:
        check_known(metadata["kind"], metadata["data"], needs)
        return _CLASSIFIERS[metadata["kind"]].from_metadata(metadata), metadata
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{checkpoint}: its metadata are not those of a training run "
            f"({printable(repr(error), longest=200)}); wanted a checkpoint that `python -m "
            "train.image` or a command like it made, unchanged."
        ) from error


def deep_variables(path: Path, *, like: Any) -> Any:
    """Returns the deep model's variables of a finished run.

    Args:
      path: of the run, or of a checkpoint.
      like: variables of the same shapes.

    Raises:
      ValueError: nothing there, or a model of another shape; the message lists the differences.
    """
    return lcjax.restore(_checkpoint(path), like=like)


def teacher(path: Path, asked: Mapping[str, Any]) -> tuple[Classifier, Any]:
    """Returns the classifier and the deep variables of a finished run on the same data.

    Args:
      path: of the run, or of a checkpoint.
      asked: what must be known of the data it was trained with.

    Raises:
      ValueError: nothing there, or it is of other data.
    """
    classifier, metadata = classifier_of(_checkpoint(path))
    known = metadata["data"]
    other = {name: known.get(name) for name in asked if known.get(name) != asked[name]}
    if other:
        raise ConfigError(f"{path} was trained with {other}; wanted {asked} for a teacher.")
    return classifier, lcjax.restore(_checkpoint(path))


def fresh_compact(path: Path, variables: Any, key: jax.Array) -> Any:
    """Returns new variables of the shapes that are left once a run's sites are collapsed.

    A kernel that takes the place of several is drawn anew: normal, its variance times its fan-in
    that of the kernel of the same name in `variables`, so that it follows the model's own
    initialiser. Its bias is 0.

    Args:
      path: of the finished run, whose summary names the sites.
      variables: of the deep model before the first step.
      key: of the draws.

    Raises:
      ValueError: when there is no summary, or the model has not these sites.
    """
    if not (path / SUMMARY).is_file():
        raise ConfigError(f"{path} is not a finished run: there is no {SUMMARY} in it.")
    sites = read_json(path / SUMMARY).get("collapsed")
    if not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
        raise ConfigError(
            f"{path / SUMMARY} does not list the collapsed sites as strings; wanted the summary of "
            "a finished run, unchanged."
        )
    if not sites:
        raise ConfigError(f"{path} collapsed no site; wanted a run that did.")
    shapes, report = lcjax.abstract_collapse(variables, sites)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    began = {leaf_path(keys): leaf for keys, leaf in leaves}

    def draw(keys: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = leaf_path(keys)
        if in_params(name) not in report.new:
            return began[name]
        if not name.endswith("kernel"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        old = began[name]
        deviation = jnp.std(old) * (old.shape[-2] / leaf.shape[-2]) ** 0.5
        own_key = jax.random.fold_in(key, report.new.index(in_params(name)))
        return deviation * jax.random.normal(own_key, leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _checkpoint(path: Path) -> Path:
    """Returns the deep checkpoint of a run, or the checkpoint that is named."""
    if (path / DEEP).exists():
        return path / DEEP
    if not path.exists():
        raise ConfigError(f"{path} is not there; wanted a finished run, or a checkpoint of one.")
    return path
