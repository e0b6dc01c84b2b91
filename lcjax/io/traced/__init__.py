"""Checkpoints of params of any function, collapsed as a stream: sites are found from shapes."""

from lcjax.io.traced.collapse import collapse_traced
from lcjax.io.traced.source import TracedSource, function_source
