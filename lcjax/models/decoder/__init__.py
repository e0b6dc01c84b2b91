"""Decoders of the Llama family, whole and block by block."""

from lcjax.models.decoder.block import DecoderBlock
from lcjax.models.decoder.config import DecoderConfig, LayerConstants
from lcjax.models.decoder.context import TextContext, text_context
from lcjax.models.decoder.decoder import Decoder
from lcjax.models.decoder.ends import DecoderEmbedding, DecoderHead
from lcjax.models.decoder.rotary import Rope

__all__ = [
    "Decoder",
    "DecoderBlock",
    "DecoderConfig",
    "DecoderEmbedding",
    "DecoderHead",
    "LayerConstants",
    "Rope",
    "TextContext",
    "text_context",
]
