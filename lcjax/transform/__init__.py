"""The life cycle of a site for any JAX function, by rewriting its jaxpr."""
