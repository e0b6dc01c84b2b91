"""Optax transforms that bring slopes to 1."""
