"""Published sizes by name: "base", or with a patch size "B/16"."""

import re
from collections.abc import Mapping
from typing import Any

Sizes = Mapping[str, Mapping[str, Any]]


def preset_fields(preset: str, sizes: Sizes, model: str) -> dict[str, Any]:
    """Returns the fields of a preset such as "base".

    Args:
      preset: a key of `sizes`.
      sizes: the fields of each size.
      model: name of the model in the error message.

    Raises:
      ValueError: unknown preset; lists the known ones.
    """
    if preset not in sizes:
        raise ValueError(f"{model}: got preset {preset!r}, expected one of {', '.join(sizes)}.")
    return dict(sizes[preset])


def patch_preset_fields(preset: str, sizes: Sizes, model: str) -> dict[str, Any]:
    """Returns the fields of a preset such as "B/16": a size and the patch size in pixels.

    Args:
      preset: a key of `sizes`, a slash and the patch size.
      sizes: the fields of each size.
      model: name of the model in the error message.

    Raises:
      ValueError: a preset of another form, or an unknown size; lists the known ones.
    """
    found = re.fullmatch(r"(\w+)/([1-9]\d*)", preset)
    if not found or found[1] not in sizes:
        known = ", ".join(f"{size}/16" for size in sizes)
        raise ValueError(
            f"{model}: got preset {preset!r}, expected one of {known}, or another patch size after "
            "the slash."
        )
    return {**sizes[found[1]], "patch_size": int(found[2])}
