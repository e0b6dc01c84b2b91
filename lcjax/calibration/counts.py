"""How many hidden units stay: counts that fit the tiles of a device."""

from lcjax.errors import CollapseError

# Widths that fill the tiles of a matrix unit, by the platform of the device.
_MULTIPLES = {"tpu": 128, "gpu": 64, "cpu": 8}


def multiple_for(platform: str) -> int:
    """Returns the multiple to which counts of units round by default.

    Args:
      platform: of the device that runs the model, as `jax.default_backend()` returns it.

    Example:
      >>> multiple_for("gpu")
      64
    """
    return _MULTIPLES.get(platform, _MULTIPLES["cpu"])


def rounded_count(count: int, multiple: int, width: int) -> int:
    """Returns the largest multiple within a count of units, so that budgets hold.

    All units are a count too, whatever their number.

    Args:
      count: of units, at least 1.
      multiple: at least 1.
      width: how many units there are.

    Raises:
      ValueError: a count or a multiple below 1.
      CollapseError: a multiple that leaves no unit.

    Example:
      >>> rounded_count(100, 64, 1536), rounded_count(50, 64, 50)
      (64, 50)
    """
    if count < 1 or multiple < 1:
        raise ValueError(f"got count {count} and multiple {multiple}; expected at least 1 of both.")
    if count >= width:
        return width
    if count < multiple:
        raise CollapseError(
            f"{count:,} of {width:,} units: leave none in multiples of {multiple:,}. Keep more "
            "units, or give a smaller multiple_of."
        )
    return count - count % multiple
