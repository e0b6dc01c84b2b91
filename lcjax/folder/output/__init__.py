"""What a compact folder has next to its weights: config, model card, report, code for PyTorch."""

__all__: list[str] = []
