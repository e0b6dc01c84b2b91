"""Networks whose every MLP is collapsible; names of children sort in forward order."""

from lcjax.models.bert import Bert
from lcjax.models.gpt2 import GPT2
from lcjax.models.mixer import MLPMixer
from lcjax.models.mlp import MLP
from lcjax.models.vgg import VGG
from lcjax.models.vit import ViT

__all__ = ["GPT2", "MLP", "VGG", "Bert", "MLPMixer", "ViT"]
