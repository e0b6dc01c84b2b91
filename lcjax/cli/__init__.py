"""The command `lcjax`: inspects, collapses and exports checkpoints."""

from lcjax.cli.command import main

__all__ = ["main"]
