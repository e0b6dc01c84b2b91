"""Names of tensors in other libraries' checkpoints, one module a model."""
