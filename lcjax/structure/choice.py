"""The sites that a collapse is asked for, and whether each may go."""

from collections.abc import Iterable

from lcjax.errors import CollapseError
from lcjax.planning.results import Plan
from lcjax.structure.sites import Site, Sites, finite_gap
from lcjax.tree.selection import check_sites, choose

Choice = str | Site | Iterable[str | Site] | Plan | None


def by_gap(found: Sites, sites: Choice, threshold: float) -> tuple[set[str], list]:
    """Returns the paths to collapse as they are, and the sites that stay, each with the reason.

    Raises:
      CollapseError: as `lcjax.collapse`.
    """
    if sites is not None:
        chosen = _named(found, sites)
        for site in found:
            if site.path in chosen and site.gap is not None and finite_gap(site) > threshold:
                raise CollapseError(
                    f"{site.path}: gap is {site.gap:.4g} (slope {site.slope:.4g}), over the "
                    f"threshold {threshold:g}. Train on with lcjax.with_linearity_penalty, fit it from data "
                    "with lcjax.calibrate, or raise the threshold."
                )
        return chosen, _others(found, chosen)
    choose(found.paths)  # raises where there is no site
    if any(site.gap is None for site in found):
        raise CollapseError(
            "sites must be given where slopes are abstract or traced (under jit, or with "
            "ShapeDtypeStructs): their gaps cannot be seen."
        )
    paired = [site for site in found if site.paired]
    chosen = {site.path for site in paired if finite_gap(site) <= threshold}
    return chosen, [
        (site.path, f"gap {site.gap:.4f} over {threshold:g}" if site.paired else "unpaired")
        for site in found
        if site.path not in chosen
    ]


def to_fit(found: Sites, sites: Choice) -> tuple[set[str], list]:
    """Returns the paths to fit from data, and the sites that stay; None takes every paired one.

    Raises:
      CollapseError: no site; a pattern that matches none; a named site that is unpaired.
    """
    if sites is not None:
        chosen = _named(found, sites)
    else:
        choose(found.paths)
        chosen = {site.path for site in found if site.paired}
    return chosen, _others(found, chosen)


def _named(found: Sites, sites: Choice) -> set[str]:
    if isinstance(sites, Plan):
        if not sites.sites:
            return set()
        sites = sites.sites
    check_sites(sites)
    names = [sites] if isinstance(sites, (str, Site)) else list(sites or ())
    names = [name.path if isinstance(name, Site) else name for name in names]
    chosen = set(choose(found.paths, sites=names))
    for site in found:
        if site.path in chosen and not site.paired:
            raise CollapseError(
                f"{site.path}: unpaired, it stands in no chain of Dense layers, so there is "
                "nothing to fuse. Build the pair with lcjax.CollapsibleMLP."
            )
    return chosen


def _others(found: Sites, chosen: set[str]) -> list:
    return [
        (site.path, "not asked for" if site.paired else "unpaired")
        for site in found
        if site.path not in chosen
    ]
