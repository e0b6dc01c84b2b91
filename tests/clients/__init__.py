"""Published JAX libraries, unchanged, with random weights: what lcjax does with their models."""
