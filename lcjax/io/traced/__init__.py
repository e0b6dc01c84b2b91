"""Checkpoints of params of any function, collapsed as a stream: sites are found from shapes."""

from lcjax.io.traced.collapse import collapse_traced
from lcjax.io.traced.contents import contents_of
from lcjax.io.traced.pairs import PairRule, pairs_source
from lcjax.io.traced.source import TracedSource, function_source

__all__ = [
    "PairRule",
    "TracedSource",
    "collapse_traced",
    "contents_of",
    "function_source",
    "pairs_source",
]
