"""Environments of processes with several devices."""

import os


def devices(count: int) -> dict[str, str]:
    """Returns the variables that split the CPU into as many devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
