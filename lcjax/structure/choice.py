"""Which sites a collapse takes, and why it skips the others."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from lcjax.errors import CollapseError
from lcjax.structure.sites import Site, Sites, require_finite_gap
from lcjax.tree.rules import Rule
from lcjax.tree.selection import choose, site_names

Assigned = TypeVar("Assigned")
Reason = Literal[
    "gap", "unpaired", "not_chosen", "stacked", "grows", "few_linear_units", "bypassed"
]

_UNSTACK = (
    "the layers that a scan stacks collapse together. To collapse some of them, unstack them: "
    "lcjax.unstack_layers for nn.scan; in a function, a tree of params for every layer and a "
    "Python loop in the place of lax.scan"
)
_TEXT: dict[Reason, str] = {
    "gap": "gap",
    "unpaired": "unpaired",
    "not_chosen": "not chosen",
    "stacked": "stacked layers, which only an exact fuse can take",
    "grows": "would grow: one matrix with its bias is no smaller than two",
    "few_linear_units": "too few linear units",
    "bypassed": "read or fed by the linear map of a neighbouring pair",
}


class Skip(NamedTuple):
    """A site that is not collapsed, and why.

    Attributes:
      site: its path.
      reason: "gap" (its slope is too far from 1), "unpaired" (no Dense on both sides),
        "not_chosen", "stacked" (layers of a scan, which cannot be fitted), "grows" (one matrix
        would be no smaller), "bypassed" (a bypass of a neighbouring pair reads or feeds the units),
        or of a site with a slope for each unit "few_linear_units" (a linear map for them would be
        no smaller).
      detail: the figures, such as "0.3000 over 0.05"; may be empty.

    Example:
      >>> import lcjax
      >>> print(lcjax.Skip("act_0", "gap", "0.3000 over 0.05"))
      gap 0.3000 over 0.05
    """

    site: str
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        """Returns the reason as text."""
        return f"{_TEXT[self.reason]} {self.detail}".rstrip()


class HasSites(Protocol):
    """What names sites by its attribute `sites`, as a Plan does."""

    @property
    def sites(self) -> Iterable[str]:
        """Paths of sites."""
        ...


SiteSelector = Rule | Site | Iterable[Rule | Site] | HasSites | None


class Selection(NamedTuple):
    """The sites to collapse and those to skip.

    Attributes:
      chosen: paths of the sites to collapse, in forward order.
      skipped: the others, each with the reason.
    """

    chosen: tuple[str, ...]
    skipped: tuple[Skip, ...]

    def without(self, bypassed: Collection[str]) -> "Selection":
        """Returns the selection with sites skipped whose units a bypass reads."""
        skips = tuple(Skip(path, "bypassed") for path in self.chosen if path in bypassed)
        chosen = tuple(path for path in self.chosen if path not in bypassed)
        return Selection(chosen, (*self.skipped, *skips))


def select_linear(
    found: Sites,
    sites: SiteSelector,
    max_gap: float,
    collapsed: Collection[str] = (),
    partly: Collection[str] = (),
) -> Selection:
    """Returns the sites to collapse exactly.

    Args:
      found: the sites that are not collapsed yet.
      sites: what the user chose; None takes every site within the gap.
      max_gap: largest accepted gap.
      collapsed: paths of the sites that are collapsed already.
      partly: paths of sites some of whose units are within the gap; they are skipped for their
        gap, also where `sites` names them.

    Raises:
      CollapseError: as `lcjax.collapse`.
    """
    names = None if sites is None else site_names(sites)
    _check_open(found, names or (), collapsed)
    if names is not None:
        chosen, over = _named(found, names, sites), []
        for site in found:
            if site.path in chosen and site.gap is not None and require_finite_gap(site) > max_gap:
                if site.path not in partly:
                    raise CollapseError(_over(site, max_gap))
                over.append(gap_skip(site, max_gap))
        selection = _selection(found, chosen - {skip.site for skip in over})
        skips = {skip.site: skip for skip in (*selection.skipped, *over)}
        return selection._replace(skipped=tuple(skips.values()))
    choose(found.paths)  # raises where there is no site
    if any(site.gap is None for site in found):
        raise CollapseError(
            "sites must be given where slopes are abstract or traced (under jit, or with "
            "ShapeDtypeStructs): their gaps cannot be seen."
        )
    within = {site.path for site in found if site.paired and require_finite_gap(site) <= max_gap}
    return _selection(found, within, max_gap)


def select_for_fit(found: Sites, sites: SiteSelector, collapsed: Collection[str] = ()) -> Selection:
    """Returns the sites to fit from data; None takes every paired one.

    Raises:
      CollapseError: no site; a pattern that matches none; a named site that is unpaired or
        collapsed already.
    """
    names = None if sites is None else site_names(sites)
    _check_open(found, names or (), collapsed)
    if names is not None:
        return _selection(found, _named(found, names, sites))
    choose(found.paths)
    return _selection(found, {site.path for site in found if site.paired})


def assign(
    found: Sites, rules: Mapping[Any, Assigned], collapsed: Collection[str] = ()
) -> dict[str, Assigned]:
    """Returns for each site what the first rule that matches it gives, in the order of the rules.

    Raises:
      CollapseError: as `select_for_fit`, for each rule.
    """
    assigned: dict[str, Assigned] = {}
    for rule, value in rules.items():
        for path in select_for_fit(found, [rule], collapsed).chosen:
            assigned.setdefault(path, value)
    return assigned


def _selection(found: Sites, chosen: set[str], max_gap: float | None = None) -> Selection:
    skipped = []
    for site in found:
        if site.path in chosen:
            continue
        if not site.paired:
            skipped.append(Skip(site.path, "unpaired"))
        elif max_gap is None:
            skipped.append(Skip(site.path, "not_chosen"))
        else:
            skipped.append(gap_skip(site, max_gap))
    return Selection(tuple(path for path in found.paths if path in chosen), tuple(skipped))


def gap_skip(site: Site, max_gap: float) -> Skip:
    """Returns why a site over the accepted gap is skipped."""
    advice = f" in one layer at least; {_UNSTACK}" if site.layers > 1 else ""
    if site.linear_units is not None:
        advice = f" in one unit at least, {site.linear_units:,} are exactly linear{advice}"
    return Skip(site.path, "gap", f"{site.gap:.4f} over {max_gap:g}{advice}")


def _over(site: Site, max_gap: float) -> str:
    """Returns the message for a named site over the accepted gap."""
    if site.layers > 1:
        return (
            f"{site.path}: the largest gap of its {site.layers} layers is {site.gap:.4g}, over "
            f"max_gap {max_gap:g}, and {_UNSTACK}. Or train on with lcjax.with_linearity_penalty, "
            "or raise max_gap."
        )
    return (
        f"{site.path}: gap is {site.gap:.4g} (slope {site.slope:.4g}), over max_gap {max_gap:g}. "
        "Train on with lcjax.with_linearity_penalty, fit it from data with lcjax.calibrate, or "
        "raise max_gap."
    )


def _named(found: Sites, names: list[Rule], sites: SiteSelector) -> set[str]:
    if not names and hasattr(sites, "sites"):
        return set()  # a plan that collapses nothing
    chosen = set(choose(found.paths, sites=names))
    for site in found:
        if site.path in chosen and not site.paired:
            raise CollapseError(
                f"{site.path}: unpaired: it is in no chain of Dense layers, so there is nothing to "
                "fuse. Build the pair with lcjax.CollapsibleMLP."
            )
    return chosen


def _check_open(found: Sites, names: Iterable[Rule], collapsed: Collection[str]) -> None:
    """Raises where a chosen site is collapsed already."""
    if not collapsed:
        return
    if not found:
        raise CollapseError(f"no site is left: {', '.join(sorted(collapsed))} collapsed already.")
    for path in names:
        if path in collapsed:
            raise CollapseError(
                f"{path}: is collapsed already in this tree. Leave it out of `sites`."
            )
