"""Name maps of other libraries, one module per architecture."""

from lcjax.interop.maps.bert import BERT_MAP, ROBERTA_MAP
from lcjax.interop.maps.decoder import DECODER_MAP
from lcjax.interop.maps.distilbert import DISTILBERT_MAP
from lcjax.interop.maps.gpt2 import GPT2_MAP
from lcjax.interop.maps.mixer import TIMM_MIXER_MAP
from lcjax.interop.maps.modernbert import MODERNBERT_MAP
from lcjax.interop.maps.vgg import TORCHVISION_VGG_MAP
from lcjax.interop.maps.vit import HF_VIT_MAP, TIMM_VIT_MAP

__all__ = [
    "BERT_MAP",
    "DECODER_MAP",
    "DISTILBERT_MAP",
    "GPT2_MAP",
    "HF_VIT_MAP",
    "MODERNBERT_MAP",
    "ROBERTA_MAP",
    "TIMM_MIXER_MAP",
    "TIMM_VIT_MAP",
    "TORCHVISION_VGG_MAP",
]
