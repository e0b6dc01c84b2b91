"""Chains of Dense layers in a params tree."""

__all__: list[str] = []
