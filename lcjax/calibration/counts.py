"""Multiples of hidden units that fill the tiles of a device."""

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
