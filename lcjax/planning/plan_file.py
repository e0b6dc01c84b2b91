"""Plan files: the fit of each site as JSON, and which model it is for."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from lcjax._messages import first_few, printable
from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.fits import Exact, Fit, LeastSquares, PerUnit, Remove, Units
from lcjax.calibration.low_rank import LowRank
from lcjax.errors import CollapseError
from lcjax.structure.front_end import Collapsible
from lcjax.validation.json_files import kind_of, parse_json, read_bounded

_FORMAT = 1
_FITS: dict[str, type[Fit]] = {
    kind.name: kind for kind in (Exact, PerUnit, LeastSquares, Units, LowRank, Remove)
}


def fit_to_json(fit: Fit) -> dict[str, Any]:
    """Returns a fit as a JSON object: its name, and its options that are not the defaults.

    Example:
      >>> fit_to_json(Units(192))
      {'fit': 'units', 'count': 192}
    """
    options = fit.non_defaults()
    return {"fit": fit.name} | {
        name: "inf" if value == math.inf else value for name, value in options.items()
    }


def fit_from_json(value: Any, where: str = "fit") -> Fit:
    """Returns the fit that `fit_to_json` wrote.

    Args:
      value: a JSON object; options that it lacks have their defaults.
      where: its name in messages.

    Raises:
      ValueError: something other than a fit.

    Example:
      >>> fit_from_json({"fit": "units", "count": 192}).count
      192
    """
    if not isinstance(value, dict) or not isinstance(value.get("fit"), str):
        raise ValueError(f'{where}: got {_shown(value)}, expected an object such as {{"fit": ...}}')
    kind = _FITS.get(value["fit"])
    if kind is None:
        raise ValueError(f"{where}: got {_shown(value['fit'])}, expected one of {', '.join(_FITS)}")
    known = {each.name: each for each in fields(kind)}
    options = {name: option for name, option in value.items() if name != "fit"}
    if unknown := options.keys() - known.keys():
        raise ValueError(f"{where}: got {first_few(unknown)}, expected {', '.join(known)}")
    if lacking := [n for n, each in known.items() if each.default is MISSING and n not in options]:
        raise ValueError(f"{where}: got no {', '.join(lacking)}, which {kind.name} needs")
    try:
        for name, option in options.items():
            if isinstance(known[name].default, bool) and not isinstance(option, bool):
                raise ValueError(f"{name} is a JSON {kind_of(option)}, expected a boolean")
            options[name] = math.inf if option == "inf" else option
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


class PlannedSite(NamedTuple):
    """What a plan makes of one site.

    Attributes:
      fit: takes the site's place; None keeps the site.
      widths: d_0, d_1, ..., d_n of the Dense layers around it.
      weights: a fingerprint of those layers; None where they had no values.
    """

    fit: Fit | None
    widths: tuple[int, ...]
    weights: str | None = None


@dataclass(frozen=True)
class PlanFile:
    """What a plan makes of each site, as a file that commands read.

    Attributes:
      sites: by path, in forward order.
      details: more of the plan, as JSON: what was measured.

    Example:
      >>> plan = PlanFile({"act_0": PlannedSite(Units(2), (4, 8, 3))})
      >>> PlanFile.from_json(plan.to_json()).fits["act_0"].count
      2
    """

    sites: Mapping[str, PlannedSite]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fits(self) -> dict[str, Fit]:
        """The fits by site, for `lcjax.collapse_sequential(..., fit=fits)`."""
        return {path: site.fit for path, site in self.sites.items() if site.fit is not None}

    def check(self, model: Collapsible, stats: Calibration | None = None) -> None:
        """Raises CollapseError unless the plan is for this model: its sites, widths and weights.

        Args:
          model: whose weights are compared where it has their values.
          stats: of the same model; its weights are compared where the model has none.
        """
        known = {} if stats is None else dict(zip(stats.segments, stats.weights, strict=True))
        unknown = self.sites.keys() - set(model.sites.paths)
        if unknown:
            raise CollapseError(
                f"plan: got sites {first_few(unknown)}, which this model lacks; it has "
                f"{first_few(model.sites.paths)}. Plan again for this model."
            )
        for path, site in self.sites.items():
            (segment,) = model.segments([path])
            if segment.widths != site.widths:
                raise CollapseError(
                    f"{path}: the plan is for layers {site.widths}, this model has "
                    f"{segment.widths}. Plan again for this model."
                )
            weights = known.get(segment.id) if segment.weights is None else segment.weights
            if None not in (site.weights, weights) and site.weights != weights:
                raise CollapseError(
                    f"{path}: the plan was made for other weights than this model has, or than "
                    "were calibrated: another model, or this one before more training. Plan again, "
                    "or calibrate again, for this model."
                )

    def to_json(self) -> str:
        """Returns the plan as JSON, for `from_json`."""
        sites = {
            path: {
                "fit": None if site.fit is None else fit_to_json(site.fit),
                "widths": list(site.widths),
                "weights": site.weights,
            }
            for path, site in self.sites.items()
        }
        return json.dumps({"lcjax_fits": _FORMAT, "sites": sites, **self.details}, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, where: object = "the plan") -> Self:
        """Returns the plan that `to_json` wrote.

        Args:
          text: the JSON.
          where: its name in messages, such as the path of the file.

        Raises:
          ValueError: when the text is not a plan; says what is wrong with it.
        """
        found = parse_json(text, where)
        try:
            if not isinstance(found, dict) or "lcjax_fits" not in found:
                raise ValueError(f'got {_shown(found)}, expected an object with "lcjax_fits"')
            if (written := found.pop("lcjax_fits")) != _FORMAT:
                raise ValueError(f"its format is {written!r}, and this lcjax reads {_FORMAT}")
            sites = found.pop("sites", None)
            if not isinstance(sites, dict):
                raise ValueError(f"sites is {_shown(sites)}, expected an object")
            return cls({path: _site(path, value) for path, value in sites.items()}, found)
        except ValueError as error:
            raise ValueError(
                f"{printable(where)}: not a plan of fits: {printable(error, longest=300)}. Make "
                "it again by lcjax.plan_fits(...).save(path)."
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns the plan that a file has.

        Raises:
          OSError: if the file does not exist or cannot be opened.
          ValueError: when it is not a plan.
        """
        return cls.from_json(read_bounded(Path(path)), path)


def _site(path: str, value: Any) -> PlannedSite:
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {_shown(value)}, expected an object")
    widths, weights = value.get("widths"), value.get("weights")
    if not isinstance(widths, list) or not all(type(width) is int for width in widths):
        raise ValueError(f"widths of {path} is {_shown(widths)}, expected a list of integers")
    if not isinstance(weights, str | None):
        raise ValueError(f"weights of {path} is {_shown(weights)}, expected a string or null")
    fit = value.get("fit")
    return PlannedSite(
        fit=None if fit is None else fit_from_json(fit, f"fit of {path}"),
        widths=tuple(widths),
        weights=weights,
    )


def _shown(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, str) else f"a JSON {kind_of(value)}"
