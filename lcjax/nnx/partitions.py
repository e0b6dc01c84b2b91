"""The partition metadata of Params that replace others."""

from typing import Any

from flax import nnx

from lcjax.nnx.owners import Owner, Part


def metadata_of(model: nnx.Module, owner: Owner, part: Part) -> dict[str, dict[str, Any]]:
    """Returns the metadata of the new Params of an entry, by their paths in it.

    A kernel takes the name of the input axis of the first kernel that it replaces, and that of the
    output axis of the last.

    Args:
      model: the model, with all its Params.
      owner: the module that the entry belongs to.
      part: the entry.
    """
    return {}
