"""Protocols by name: how `--protocol` trains and collapses."""

from train.protocols.anneal import Anneal
from train.protocols.fit_heal import FitHeal
from train.protocols.natural import Natural
from train.protocols.progressive import Progressive
from train.protocols.protocol import Ending, Protocol
from train.protocols.ramp import Ramp
from train.protocols.reference import Reference

PROTOCOLS: dict[str, type[Protocol]] = {
    "natural": Natural,
    "ramp": Ramp,
    "fit-heal": FitHeal,
    "progressive": Progressive,
    "anneal": Anneal,
    "reference": Reference,
}

__all__ = ["PROTOCOLS", "Ending", "Protocol"]
