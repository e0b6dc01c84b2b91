"""Which sites are meant: by path, by glob, by how many from the last, and with what weight."""

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from lcjax.arguments import NO_SITES, check_sites
from lcjax.errors import CollapseError
from lcjax.paths import in_params, natural

Weights = float | Sequence[float] | Mapping[str, float]


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(path or "(root)" for path in paths[:8])
    return shown + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")


def matching(paths: Sequence[str], pattern: str) -> list[str]:
    """Returns the site paths that a path or glob names; `*` crosses slashes.

    Raises:
      CollapseError: when it names none; lists the sites there are.
    """
    found = [path for path in paths if path == pattern]
    found = found or [path for path in paths if fnmatchcase(path, in_params(pattern))]
    if not found:
        raise CollapseError(
            f"{pattern!r} matches no site. The sites are: {_listed(paths) or 'none'}. "
            "Name some of them, or give a glob such as '*'; capitals count."
        )
    return found


def choose(
    paths: Iterable[str],
    *,
    last: int | float | None = None,
    where: str | None = None,
    sites: Iterable[str] | None = None,
) -> list[str]:
    """Returns the chosen ones of these site paths, in forward (natural) order.

    Args:
      paths: the sites there are.
      last: how many sites from the last backwards (int), or which fraction of them (float in
        (0, 1], rounded, at least one); counted among those that `where` and `sites` leave.
      where: a glob over site paths.
      sites: paths or globs of the sites; each must name at least one.

    Raises:
      CollapseError: when there is no site, or a pattern matches none.
      ValueError: when `last` is out of range.
    """
    chosen = sorted(set(paths), key=natural)
    if not chosen:
        raise CollapseError(NO_SITES)
    if where is not None:
        chosen = matching(chosen, where)
    if sites is not None:
        check_sites(sites)
        patterns = [sites] if isinstance(sites, str) else list(sites)
        if not patterns:
            raise CollapseError(f"sites is empty. The sites are: {_listed(chosen)}.")
        named = {path for pattern in patterns for path in matching(chosen, pattern)}
        chosen = [path for path in chosen if path in named]
    if last is None:
        return chosen
    return chosen[len(chosen) - _count(last, len(chosen)) :]


def _count(last: int | float, available: int) -> int:
    if isinstance(last, float) and 0 < last <= 1:
        return max(1, round(last * available))
    if isinstance(last, int) and not isinstance(last, bool) and 1 <= last <= available:
        return last
    raise ValueError(
        f"last is {last!r}; wanted a number of sites from 1 to {available}, the number there is, "
        "or a fraction in (0, 1] such as 0.5."
    )


def weigh(chosen: Sequence[str], weights: Weights) -> dict[str, float]:
    """Returns a weight for each chosen site.

    Args:
      chosen: site paths in forward order.
      weights: one number for all, one for each chosen site in forward order, or a mapping of paths
        or globs to numbers, in which a site that nothing names weighs 1.

    Raises:
      ValueError: when the number of weights is another than that of sites, or one is negative.
      CollapseError: when a pattern matches no chosen site.
    """
    if isinstance(weights, Mapping):
        weighed = dict.fromkeys(chosen, 1.0)
        for pattern, weight in weights.items():
            weighed.update(dict.fromkeys(matching(chosen, pattern), float(weight)))
    elif isinstance(weights, (int, float)):
        weighed = dict.fromkeys(chosen, float(weights))
    elif len(weights) == len(chosen):
        weighed = dict(zip(chosen, map(float, weights), strict=True))
    else:
        raise ValueError(
            f"weights has {len(weights)} numbers for {len(chosen)} sites: {_listed(chosen)}."
        )
    for path, weight in weighed.items():
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"{path}: weight is {weight}, must be finite and at least 0.")
    return weighed
