"""Protocols by the names of --protocol."""

from train.protocols.anneal import Anneal
from train.protocols.fit_heal import FitHeal
from train.protocols.paper import Paper
from train.protocols.penalty import Penalty
from train.protocols.progressive import Progressive
from train.protocols.ramp import Ramp
from train.runs.protocol import Protocol, RunResult

PROTOCOLS: dict[str, type[Protocol]] = {
    "penalty": Penalty,
    "ramp": Ramp,
    "fit-heal": FitHeal,
    "progressive": Progressive,
    "anneal": Anneal,
    "paper": Paper,
}

__all__ = ["PROTOCOLS", "Protocol", "RunResult"]
