"""Weights in and out: safetensors files, as Hugging Face, timm and torchvision name them."""

from lcjax.interop.errors import WeightsError
from lcjax.interop.loading import load_safetensors
from lcjax.interop.own import save_safetensors
from lcjax.interop.source import find_source
from lcjax.interop.tables import model_from

__all__ = ["WeightsError", "find_source", "load_safetensors", "model_from", "save_safetensors"]
