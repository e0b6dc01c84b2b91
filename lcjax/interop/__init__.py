"""Weights in and out: safetensors files, as Hugging Face, timm and torchvision name them."""

from lcjax.interop.errors import WeightsError
from lcjax.interop.load import load_safetensors
from lcjax.interop.native import save_safetensors
from lcjax.interop.registry import model_from
from lcjax.interop.source import find_source

__all__ = ["WeightsError", "find_source", "load_safetensors", "model_from", "save_safetensors"]
