"""What a plan measures: outputs against the deep model's, on rows held out, and times."""

from lcjax.planning.measuring.outputs import KLDivergence, OutputMetric, RelativeError

__all__ = ["KLDivergence", "OutputMetric", "RelativeError"]
