"""Calibrations as checkpoints: the moments as arrays, what they are of as metadata."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import jax

from lcjax._messages import describe
from lcjax.algebra.moments import Moments
from lcjax.calibration.calibrate import Calibration
from lcjax.errors import CheckpointError
from lcjax.io.checkpoint import restore, save
from lcjax.io.file_paths import PathLike
from lcjax.io.reader import open_checkpoint
from lcjax.planning.plan_file import fit_from_json, fit_to_json
from lcjax.structure.segment import SegmentId

_KEY = "calibration"
_SPLITS = ("train", "held_out")


def save_calibration(path: PathLike, calibration: Calibration) -> None:
    """Writes a calibration to a new directory, for a collapse on another machine, without data.

    Args:
      path: the directory to create, as for `save`.
      calibration: what `lcjax.calibrate` returned.

    Raises:
      FileExistsError: path exists.
      TypeError: something other than a calibration.

    Example:
      >>> import tempfile, jax, jax.numpy as jnp, lcjax
      >>> path = tempfile.mkdtemp() + "/stats"
      >>> model = lcjax.CollapsibleMLP((16, 3))
      >>> variables = model.init(jax.random.key(0), jnp.ones((64, 4)))
      >>> stats = lcjax.calibrate(model.apply, variables, [jnp.ones((64, 4))])
      >>> lcjax.save_calibration(path, stats)
      >>> lcjax.restore_calibration(path).sites
      ('act_0',)
    """
    if not isinstance(calibration, Calibration):
        raise TypeError(
            f"calibration is {describe(calibration)}; expected a Calibration. Pass what "
            "lcjax.calibrate(apply_fn, variables, data) or call.calibrate(data) returns."
        )
    known = {
        "fit": fit_to_json(calibration.fit),
        "segments": [segment._asdict() for segment in calibration.segments],
        "weights": calibration.weights,
    }
    moments = {name: getattr(calibration, name) for name in _SPLITS}
    save(path, moments, metadata={_KEY: known})


def restore_calibration(path: PathLike) -> Calibration:
    """Returns the calibration that `save_calibration` wrote; see there.

    Args:
      path: the directory.

    Raises:
      FileNotFoundError: path does not exist.
      CheckpointError: it is not a calibration, or is damaged.

    Example:
      >>> import lcjax
      >>> lcjax.restore_calibration("no-such-folder")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      FileNotFoundError: ...no-such-folder: no such ...
    """
    source = open_checkpoint(path)
    known, tree = source.manifest["metadata"].get(_KEY), restore(path)
    try:
        if not isinstance(known, dict):
            raise ValueError("its metadata are of something else")
        fit = fit_from_json(known["fit"])
        segments = tuple(_segment(one) for one in known["segments"])
        weights = tuple(known["weights"])
        if len(weights) != len(segments):
            raise ValueError(f"{len(segments)} segments, {len(weights)} weights")
        train, held_out = (
            {key: _moments(one, fit.observed == "unit") for key, one in tree[name].items()}
            for name in _SPLITS
        )
        keys = {key for one in segments for key in _keys(one, fit.observed)}
        if not keys <= train.keys() & held_out.keys():
            raise ValueError("statistics of some segments are missing")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{source.path}: expected a calibration ({error}); write it with "
            "lcjax.save_calibration(path, lcjax.calibrate(...))."
        ) from error
    return Calibration(train=train, held_out=held_out, fit=fit, segments=segments, weights=weights)


def _keys(segment: SegmentId, observed: str) -> tuple[str, ...]:
    return segment.sites if observed == "unit" else (segment.key,)


def _segment(one: Mapping[str, Any]) -> SegmentId:
    lists = {name: tuple(one[name]) for name in ("names", "sites", "widths")}
    return SegmentId(key=one["key"], **lists)


def _moments(one: Mapping[str, Any], unitwise: bool) -> Moments:
    arrays = {each.name for each in fields(Moments)} - {"unitwise"}
    if one.keys() != arrays:
        raise ValueError(f"moments have {', '.join(sorted(one))}")
    return Moments(unitwise=unitwise, **jax.device_get(dict(one)))
