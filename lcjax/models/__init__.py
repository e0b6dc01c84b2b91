"""Published networks with collapsible MLPs; the natural order of their sites is forward order."""

from lcjax.models.bert import BERT
from lcjax.models.decoder import Decoder, DecoderConfig
from lcjax.models.gpt2 import GPT2
from lcjax.models.mixer import MLPMixer
from lcjax.models.mlp import MLP
from lcjax.models.modernbert import ModernBERT
from lcjax.models.vgg import VGG
from lcjax.models.vit import ViT

__all__ = [
    "BERT",
    "GPT2",
    "MLP",
    "VGG",
    "Decoder",
    "DecoderConfig",
    "MLPMixer",
    "ModernBERT",
    "ViT",
]
