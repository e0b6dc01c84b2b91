"""Image models whose every MLP is collapsible; names of children sort in forward order."""

from lcjax.models.mixer import MLPMixer
from lcjax.models.mlp import MLP
from lcjax.models.vit import ViT

__all__ = ["MLP", "MLPMixer", "ViT"]
