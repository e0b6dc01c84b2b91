"""Flags of a run, and their checks."""
