"""Models as StableHLO programs: `export` writes them, `load_exported` reads and runs them."""

from lcjax.stablehlo.exporting import export
from lcjax.stablehlo.loading import ExportedModel, load_exported

__all__ = ["ExportedModel", "export", "load_exported"]
