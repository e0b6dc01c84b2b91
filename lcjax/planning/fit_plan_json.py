"""The measurements of a plan of fits as JSON, and back."""

from collections.abc import Mapping
from typing import Any

from lcjax._messages import printable
from lcjax.planning.budgets import Usage
from lcjax.planning.choosing.options import Option, SiteOptions
from lcjax.planning.plan_file import PlanFile, fit_from_json, fit_to_json
from lcjax.planning.table import FitTable, Round
from lcjax.validation.json_files import kind_of

_NUMBER = int | float
_FIELDS: dict[str, Any] = {
    "metric": str,
    "baseline": _NUMBER,
    "tolerance": _NUMBER,
    "offset": _NUMBER,
    "after": dict,
    "deep": dict,
    "options": dict,
    "budgets": list,
    "unmet": list,
    "rounds": list,
    "notes": list,
}
_TEXTS = ("budgets", "unmet", "notes")


def details_of(plan: Any) -> dict[str, Any]:
    """Returns what was measured as JSON, for `plan_fields`."""
    options = {
        site.site: [
            {
                "fit": None if option.fit is None else fit_to_json(option.fit),
                "change": option.change._asdict(),
                "held_out_r2": option.held_out_r2,
            }
            for option in site.options
        ]
        for site in plan.table.sites
    }
    rounds = [
        {
            "choice": list(each.choice),
            "predicted": each.predicted._asdict(),
            "measured": each.measured._asdict(),
        }
        for each in plan.rounds
    ]
    return {
        "metric": plan.metric,
        "baseline": plan.baseline,
        "tolerance": plan.tolerance,
        "budgets": list(plan.budgets),
        "unmet": list(plan.unmet),
        "notes": list(plan.notes),
        "deep": plan.table.deep._asdict(),
        "offset": plan.table.offset,
        "after": {site.site: site.after for site in plan.table.sites if site.after is not None},
        "rounds": rounds,
        "options": options,
    }


def plan_fields(file: PlanFile, where: object) -> dict[str, Any]:
    """Returns the fields of the `FitPlan` that a plan file has.

    Args:
      file: what was read.
      where: its name in messages.

    Raises:
      ValueError: a file without the measurements, or with others; says what is wrong.
    """
    try:
        found = _checked({"after": {}, **file.details}, "the plan", _FIELDS)
        for name in _TEXTS:
            if not all(isinstance(text, str) for text in found[name]):
                raise ValueError(f"{name} is not a list of strings")
        sites, choice = [], []
        for path, site in file.sites.items():
            given = found["options"].get(path)
            if not isinstance(given, list):
                raise ValueError(f"options lacks {path}")
            options = tuple(_option(each, f"an option of {path}") for each in given)
            fits = [option.fit for option in options]
            if site.fit not in fits:
                raise ValueError(f"the fit of {path} is not among its options")
            after = found["after"].get(path)
            if after is not None and after not in file.sites:
                raise ValueError(f"after of {path} is not a site")
            sites.append(SiteOptions(path, site.widths, options, site.weights, after))
            choice.append(fits.index(site.fit))
        table = FitTable(_usage(found["deep"], "deep"), tuple(sites), found["offset"])
        rounds = tuple(_round(each, sites) for each in found["rounds"])
        rest = {name: tuple(found[name]) for name in _TEXTS}
        numbers = {name: found[name] for name in ("metric", "baseline", "tolerance")}
        return {**numbers, **rest, "table": table, "choice": tuple(choice), "rounds": rounds}
    except ValueError as error:
        raise ValueError(
            f"{printable(where)}: not a whole plan of fits: {printable(error, longest=300)}. Make "
            "it again by lcjax.plan_fits(...).save(path)."
        ) from error


def _checked(value: Any, what: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object whose fields have these types."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is a JSON {kind_of(value)}, expected an object")
    for name, kind in types.items():
        if name not in value:
            raise ValueError(f"{what} lacks {name}")
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise ValueError(f"{name} of {what} is a JSON {kind_of(value[name])}")
    return dict(value)


def _usage(value: Any, what: str) -> Usage:
    optional = {name: _NUMBER | None for name in ("bytes", "ms")}
    types = {name: _NUMBER for name in Usage._fields} | optional
    found = _checked(value, what, types)
    return Usage(**{name: found[name] for name in Usage._fields})


def _option(value: Any, what: str) -> Option:
    found = _checked(
        value, what, {"fit": dict | None, "change": dict, "held_out_r2": _NUMBER | None}
    )
    fit = None if found["fit"] is None else fit_from_json(found["fit"], f"fit of {what}")
    return Option(fit, _usage(found["change"], f"change of {what}"), found["held_out_r2"])


def _round(value: Any, sites: list[SiteOptions]) -> Round:
    found = _checked(value, "a round", {"choice": list, "predicted": dict, "measured": dict})
    choice = found["choice"]
    counts = [len(site.options) for site in sites]
    if len(choice) != len(counts) or not all(
        type(i) is int and 0 <= i < count for i, count in zip(choice, counts, strict=True)
    ):
        raise ValueError("the choice of a round is not an option for each site")
    predicted, measured = (_usage(found[name], name) for name in ("predicted", "measured"))
    return Round(tuple(choice), predicted, measured)
