"""Equinox, which is an optional dependency."""

from typing import TYPE_CHECKING

from lcjax._optional import import_optional

if TYPE_CHECKING:
    import equinox
else:
    equinox = import_optional("equinox", "lcjax.eqx needs Equinox", "equinox>=0.13")

__all__ = ["equinox"]
