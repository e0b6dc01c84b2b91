"""Environments of processes with several devices."""


def devices(count: int) -> dict[str, str]:
    """Returns the variables that split the CPU into as many devices."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}
