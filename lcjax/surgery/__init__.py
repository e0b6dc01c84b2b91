"""Collapsing sites of a model."""
