"""The life cycle of a site for any JAX function, by rewriting its jaxpr."""

from lcjax.transform.function import CollapsibleFunction
from lcjax.transform.traced_call import TracedCall

__all__ = ["CollapsibleFunction", "TracedCall"]
