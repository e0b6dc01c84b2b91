"""How a module has what replaces its sites: as one map, as narrower kernels, or as an entry."""

from lcjax.nnx.forms.affine import affine_of
from lcjax.nnx.forms.narrowing import narrow_in_place
from lcjax.nnx.forms.partitions import metadata_of

__all__ = ["affine_of", "metadata_of", "narrow_in_place"]
