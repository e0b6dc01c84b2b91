"""Sites in a traced program, and why other pairs of Dense layers are not sites."""

from lcjax.transform.matching.find_sites import Analysis, MatchedSite
from lcjax.transform.matching.match import Match
from lcjax.transform.matching.tracing import CallTrace

__all__ = ["Analysis", "CallTrace", "Match", "MatchedSite"]
