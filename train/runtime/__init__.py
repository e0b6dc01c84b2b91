"""Devices, memory, signals and disk."""
