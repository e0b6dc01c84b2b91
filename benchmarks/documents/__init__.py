"""Tables of README and of the documentation, written from benchmarks/results."""
