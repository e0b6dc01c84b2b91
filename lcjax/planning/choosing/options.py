"""The options of a site: fits, and what each changes."""

from dataclasses import dataclass
from typing import NamedTuple

from lcjax.calibration.fits import Fit
from lcjax.planning.budgets import Usage


class Option(NamedTuple):
    """One fit of one site, all other sites unchanged.

    Attributes:
      fit: takes the site's place; None keeps it.
      change: of every quantity from the deep model's; `change.kept` is -1, or 0 where it stays.
      held_out_r2: of the fit, on tokens held out; None where it is not known.
    """

    fit: Fit | None
    change: Usage
    held_out_r2: float | None = None


KEEP = Option(None, Usage(0.0, 0, 0, 0, 0, 0.0))


@dataclass(frozen=True)
class SiteOptions:
    """The options of one site.

    Attributes:
      site: its path.
      widths: d_0, d_1, ..., d_n of the Dense layers around it.
      options: the first keeps the site.
      weights: a fingerprint of those layers.
      after: the site before in the chain, with which it shares its first layer; None for none.
    """

    site: str
    widths: tuple[int, ...]
    options: tuple[Option, ...]
    weights: str | None = None
    after: str | None = None
