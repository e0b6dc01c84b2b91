"""Writes trained weights back as a model folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.core import meta

from lcjax._messages import printable
from lcjax.errors import WeightsError
from lcjax.folder.output.model_card import CARD, card_after_training
from lcjax.folder.output.report import REPORT, with_training
from lcjax.folder.storage.compact_folder import CompactFolder, as_json
from lcjax.folder.storage.model_folder import read_model_folder
from lcjax.folder.storage.work_directory import check_target, open_work
from lcjax.folder.weights import FolderWeights
from lcjax.io.leaves import LeafPath, diff, flatten, joined
from lcjax.structure.unstack import unstack_layers
from lcjax.validation.json_files import read_json

_SHOWN = 6


def save_model(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    like: str | Path,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Writes trained variables as a model folder like the one that they were loaded from.

    Names, shapes, dtypes and files of the tensors, config, tokenizer and all other files are those
    of that folder, so that what loads it loads the new one. Values are rounded to the folder's
    dtypes. Tensors that the network lacks, such as a pooler, are copied. The new folder is there
    whole or not at all.

    Args:
      path: of the folder to create.
      variables: of the network that `load_model` returns; layers may be stacked, as by a `Decoder`
        with `scan_layers`.
      like: the folder that was loaded.
      training: figures for model card and `lcjax_report.json`, as JSON: numbers, texts, or objects
        of them.

    Raises:
      FileNotFoundError: no such folder.
      FileExistsError: the path exists, or is being written.
      ValueError: figures that are not JSON, a path inside of the folder, a damaged report.
      WeightsError: variables of another network; a slope that is not 0, which a folder cannot have;
        values that are not finite in the folder's dtype; else as of `load_model`.

    Example:
      >>> import lcjax
      >>> model, variables = lcjax.folder.load_model("small")  # doctest: +SKIP
      >>> lcjax.folder.save_model("trained", variables, like="small")  # doctest: +SKIP
    """
    source, target = Path(like).expanduser(), Path(path).expanduser()
    check_target(source, target)
    folder = read_model_folder(source)
    weights = FolderWeights(folder)
    params = meta.unbox(variables.get("params", {}))
    if "blocks" in params:
        params = unstack_layers(params, "blocks", name="block", axis=0)
    _check(params, weights.shapes, source)
    texts = _texts(source, training or {})
    with open_work(target, folder.identity, lambda error: True) as work:
        shapes = {name: folder.tensors.places[name].shape for name in weights.names}
        new = CompactFolder(work.folder, folder, shapes, {})
        new.create()
        for module in weights.modules:
            tensors = weights.tensors(module, params[module])
            _check_finite(tensors)
            new.write(tensors)
        new.copy()
        new.write_rest(folder.config, texts)
        work.publish(target)


def _texts(source: Path, training: Mapping[str, Any]) -> dict[str, str]:
    """Returns the model card, and the report where the source has one, by their names."""
    try:
        json.dumps(dict(training), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"training: {printable(error, longest=100)}; expected JSON: texts and finite numbers "
            "of Python."
        ) from error
    texts, report = {CARD: card_after_training(source, training)}, source / REPORT
    if report.is_file():
        texts[REPORT] = as_json(with_training(read_json(report), training))
    return texts


def _check(params: Any, shapes: Mapping[LeafPath, tuple[int, ...]], source: Path) -> None:
    """Raises unless params have the leaves of a folder, and slopes that are 0."""
    leaves = flatten(params)
    moved = [path for path in leaves if path[-1] == "slope" and np.any(np.asarray(leaves[path]))]
    if moved:
        raise WeightsError(
            f"{joined(moved[0])}: got a slope that is not 0, expected 0: a folder has activations "
            "as they are. Collapse the site, or train without slopes."
        )
    ours = {path: str(np.shape(leaf)) for path, leaf in leaves.items() if path[-1] != "slope"}
    lines = diff(ours, {path: str(shape) for path, shape in shapes.items()}, "variables", "folder")
    if lines:
        shown = printable("; ".join(lines[:_SHOWN]), longest=900)
        more = len(lines) - _SHOWN
        raise WeightsError(
            f"{source}: the variables are not of this folder's network: {shown}"
            f"{f' and {more} more' if more > 0 else ''}. Give the folder that they were loaded "
            "from."
        )


def _check_finite(tensors: Mapping[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise WeightsError(
                f"{name}: got values that are not finite in {tensor.dtype}, the folder's dtype; "
                "expected finite ones. Train with a smaller learning rate, or from a folder in "
                "bfloat16 or float32."
            )
