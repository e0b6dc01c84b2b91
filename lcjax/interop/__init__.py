"""Safetensors files of lcjax, Hugging Face, timm and torchvision."""

from lcjax.errors import WeightsError
from lcjax.interop.loading import load_safetensors
from lcjax.interop.native import save_safetensors
from lcjax.interop.registry import model_from_config
from lcjax.interop.source import resolve_source

__all__ = [
    "WeightsError",
    "load_safetensors",
    "model_from_config",
    "resolve_source",
    "save_safetensors",
]
