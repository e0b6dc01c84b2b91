"""Data sets and their batches."""
