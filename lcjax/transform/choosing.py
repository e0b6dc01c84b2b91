"""Which sites of a function a collapse takes, and what takes their place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lcjax.calibration.calibrate import Calibration
from lcjax.errors import CollapseError
from lcjax.planning.results import Plan
from lcjax.structure.choice import Choice, by_gap, to_fit
from lcjax.structure.sites import Site, Sites, finite_gap
from lcjax.surgery.fitting import fitted
from lcjax.surgery.replacement import Rank, Replace, Truncation, exactly
from lcjax.transform.matching.find_sites import MatchedSite

_UNROLL = (
    "the layers of a scan collapse together. To collapse some of them, unroll it: hold a tree of "
    "params for every layer, and run them in a Python loop in the place of lax.scan"
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """How sites are chosen and replaced; the arguments of `collapse`, checked.

    Attributes:
      sites: paths, globs, Sites or a Plan; None for every one that may go.
      threshold: largest accepted gap of an exact fuse.
      fit: "exact" or statistics.
      ridge: of least squares.
      rank: of what is truncated.
      tolerance: of rank="auto".
    """

    sites: Choice
    threshold: float
    fit: Literal["exact"] | Calibration
    ridge: float
    rank: Rank
    tolerance: float

    def __post_init__(self):
        if self.fit != "exact" and not isinstance(self.fit, Calibration):
            raise ValueError(f"fit is {self.fit!r}, must be 'exact' or what `calibrate` returns.")
        for name, value in (("threshold", self.threshold), ("ridge", self.ridge)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}, must be at least 0.")

    @property
    def instead(self) -> Replace:
        """What takes the place of a run."""
        truncation = Truncation(self.rank, self.tolerance)
        if isinstance(self.fit, Calibration):
            return fitted(self.fit, self.ridge, truncation)
        return exactly(truncation)

    @property
    def keeps_steps_apart(self) -> bool:
        """Whether an activation is replaced between what stands before it and after it."""
        return isinstance(self.fit, Calibration) and self.fit.fit == "moments"


def choose_sites(
    found: Sites, gone: set[str], method: Method
) -> tuple[set[str], list[tuple[str, str]]]:
    """Returns the paths of the chosen sites, and the sites that stay, each with the reason.

    Args:
      found: the sites that are not collapsed yet.
      gone: the paths of those that are.
      method: what is asked for.

    Raises:
      CollapseError: as `lcjax.collapse`; a site that is collapsed already.
    """
    _check_open(found, gone, method.sites)
    if isinstance(method.fit, Calibration):
        return to_fit(found, method.fit.sites if method.sites is None else method.sites)
    _check_stacked(found, method)
    chosen, kept = by_gap(found, method.sites, method.threshold)
    return chosen, [(path, _advised(reason, path, found)) for path, reason in kept]


def check_inference(sites: Sequence[MatchedSite]) -> None:
    """Raises where a site cannot be fused in this call, since it runs as in training."""
    for site in sites:
        if site.uses_batch_statistics:
            raise CollapseError(
                f"{site.path}: the norm in it uses the statistics of the batch in this call, so "
                "there is nothing to fold in. Give the call as at inference (train=False)."
            )


def _check_open(found: Sites, gone: set[str], sites: Choice) -> None:
    if not found:
        raise CollapseError(
            f"no site is left: {', '.join(sorted(gone)) or 'none'} collapsed already."
        )
    asked = sites.sites if isinstance(sites, Plan) else sites
    names = [asked] if isinstance(asked, (str, Site)) else list(asked or ())
    for name in names:
        path = name.path if isinstance(name, Site) else name
        if path in gone:
            raise CollapseError(
                f"{path}: is collapsed already in this tree. Leave it out of `sites`."
            )


def _check_stacked(found: Sites, method: Method) -> None:
    """Raises where a site is named of which one layer of a scan may go and another may not."""
    named = set() if method.sites is None else to_fit(found, method.sites)[0]
    for site in found:
        if site.path in named and site.layers > 1 and site.gap is not None:
            if finite_gap(site) > method.threshold:
                raise CollapseError(
                    f"{site.path}: the largest gap of its {site.layers} layers is {site.gap:.4g}, "
                    f"over the threshold {method.threshold:g}, and {_UNROLL}. Or train on with "
                    "lcjax.with_linearity_penalty, or raise the threshold."
                )


def _advised(reason: str, path: str, sites: Sites) -> str:
    """Returns why a site stays, with what to do where it is several layers of a scan."""
    stacked = any(site.path == path and site.layers > 1 for site in sites)
    return f"{reason} in one layer at least; {_UNROLL}" if stacked and "gap" in reason else reason
