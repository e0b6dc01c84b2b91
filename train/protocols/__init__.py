"""Protocols by name: how `--protocol` trains and collapses."""

from train.protocols.anneal import Anneal
from train.protocols.base import Ending, Protocol
from train.protocols.fit_heal import FitHeal
from train.protocols.paper import Reference
from train.protocols.penalty import Natural
from train.protocols.progressive import Progressive
from train.protocols.ramp import Ramp

PROTOCOLS: dict[str, type[Protocol]] = {
    "natural": Natural,
    "ramp": Ramp,
    "fit-heal": FitHeal,
    "progressive": Progressive,
    "anneal": Anneal,
    "reference": Reference,
}

__all__ = ["PROTOCOLS", "Ending", "Protocol"]
