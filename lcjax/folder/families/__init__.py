"""Families of models whose folders lcjax reads layer by layer."""

from lcjax.folder.families.family import Family, LanguageFamily
from lcjax.folder.families.registry import family_of

__all__ = ["Family", "LanguageFamily", "family_of"]
