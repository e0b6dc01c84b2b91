"""ModernBERT."""

from lcjax.models.modernbert.modernbert import ModernBERT

__all__ = ["ModernBERT"]
