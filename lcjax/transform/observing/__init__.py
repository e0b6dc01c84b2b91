"""The values that flow through the sites of a traced program."""

from lcjax.transform.observing.observe import check_observable, observed_values

__all__ = ["check_observable", "observed_values"]
