"""Exported StableHLO programs: written and loaded."""
