"""Devices of a run: the mesh, and the processes that own its devices."""

import dataclasses
import math
import socket
import time

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from train.validation import ConfigError, require

AXES = ("data", "fsdp", "tensor")
_PATIENCE_S = 45


@dataclasses.dataclass(frozen=True, kw_only=True)
class DevicesConfig:
    """Devices to run on; a run may be resumed on others."""

    mesh: str | None = None
    """Devices on each axis, such as data=8,fsdp=4,tensor=2. Batches are sharded over data and fsdp,
    params and optimizer state over fsdp, pairs of dense layers over tensor. By default all devices
    are on data."""
    distributed: bool = False
    """Run in several processes, each with its own devices; on TPU pods and under Slurm they find
    one another."""
    coordinator: str | None = None
    """Address of process 0, host:port, if processes cannot find one another."""
    process_id: int | None = None
    """Number of this process, from 0."""
    num_processes: int | None = None
    """Number of processes."""

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        parse_mesh(self.mesh)
        for name in ("process_id", "num_processes"):
            require(self, name, lambda value: value is None or value >= 0, "at least 0")
        if not self.distributed and self.coordinator is not None:
            raise ConfigError("--coordinator is set, but --distributed is not; set both.")


def parse_mesh(text: str | None) -> dict[str, int]:
    """Returns the number of devices on each axis in the text.

    Raises:
      ConfigError: if the text is not of the form data=8,fsdp=4,tensor=2.
    """
    sizes: dict[str, int] = {}
    for part in [] if text is None else text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or axis in sizes or not size.isdecimal() or int(size) < 1:
            raise ConfigError(
                f"--mesh is {text!r}; expected axes among {', '.join(AXES)}, each once with a "
                "number of devices, such as data=8,fsdp=4,tensor=2."
            )
        sizes[axis] = int(size)
    return sizes


def make_mesh(config: DevicesConfig) -> Mesh | None:
    """Returns the configured mesh of all devices; None for a single device.

    Raises:
      ConfigError: if the axis sizes do not multiply to the number of devices.
    """
    sizes, count = parse_mesh(config.mesh), jax.device_count()
    if config.mesh is None:
        sizes = {"data": count}
    if math.prod(sizes.values()) != count:
        raise ConfigError(
            f"--mesh {config.mesh} uses {math.prod(sizes.values())} devices but {count} are "
            f"available; the axis sizes must multiply to {count}."
        )
    if count == 1:
        return None
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def initialize_distributed(config: DevicesConfig) -> None:
    """Connects to the other processes with --distributed; otherwise does nothing.

    Raises:
      ConfigError: if they cannot be reached within about a minute.
    """
    if not config.distributed:
        return
    try:
        if config.coordinator is not None and config.process_id != 0:
            _await_listener(config.coordinator)  # JAX aborts the process if nobody listens
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            initialization_timeout=_PATIENCE_S,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--distributed: the other processes cannot be reached ({str(error).splitlines()[0]}). "
            "Give all of them the same --coordinator HOST:PORT, where process 0 listens, and the "
            "same --num-processes, and each its own --process-id."
        ) from error


def _await_listener(address: str) -> None:
    """Returns once a process listens at host:port.

    Raises:
      OSError: if no process does within a minute.
      ValueError: if the address is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--coordinator is {address!r}; expected HOST:PORT")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise OSError(f"no process listens at {address}: {error}") from error
            time.sleep(0.5)


def is_main_process() -> bool:
    """Returns whether this is process 0, which prints and writes unsharded files."""
    return jax.process_index() == 0


def barrier(what: str) -> None:
    """Returns once all processes have reached the same call.

    Args:
      what: name of the call; the same in all processes and unique to the place in the code.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in at least one process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(flag).any())
