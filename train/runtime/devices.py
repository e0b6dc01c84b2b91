"""The devices of a run: a mesh of them, and the processes that hold them."""

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
    """Where the run computes; a run may be resumed on other devices."""

    mesh: str | None = None
    """How many devices on each axis, such as data=8,fsdp=4,tensor=2: batches are cut over data and
    fsdp, params and optimizer state over fsdp, pairs of dense layers over tensor; by default all
    devices are on data."""
    distributed: bool = False
    """Run in several processes, each with devices of its own; on TPU pods and under Slurm they find
    one another."""
    coordinator: str | None = None
    """Address of process 0, host:port, where processes do not find one another."""
    process_id: int | None = None
    """Number of this process, from 0."""
    num_processes: int | None = None
    """How many processes there are."""

    def check(self) -> None:
        """Raises ConfigError where a field is out of range."""
        parse_mesh(self.mesh)
        for name in ("process_id", "num_processes"):
            require(self, name, lambda value: value is None or value >= 0, "at least 0")
        if not self.distributed and self.coordinator is not None:
            raise ConfigError("--coordinator is set, but --distributed is not; wanted both.")


def parse_mesh(text: str | None) -> dict[str, int]:
    """Returns the number of devices on the axes that are named.

    Raises:
      ConfigError: for what is not such as data=8,fsdp=4,tensor=2.
    """
    sizes: dict[str, int] = {}
    for part in [] if text is None else text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or axis in sizes or not size.isdecimal() or int(size) < 1:
            raise ConfigError(
                f"--mesh is {text!r}; wanted axes among {', '.join(AXES)}, each once with a number "
                "of devices, such as data=8,fsdp=4,tensor=2."
            )
        sizes[axis] = int(size)
    return sizes


def make_mesh(config: DevicesConfig) -> Mesh | None:
    """Returns the mesh of all devices that a configuration asks for; None for a single device.

    Raises:
      ConfigError: when the axes do not come to as many devices as there are.
    """
    sizes, count = parse_mesh(config.mesh), jax.device_count()
    if config.mesh is None:
        sizes = {"data": count}
    if math.prod(sizes.values()) != count:
        raise ConfigError(
            f"--mesh {config.mesh} is {math.prod(sizes.values())} devices, but there are {count}; "
            "wanted numbers whose product that is."
        )
    if count == 1:
        return None
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def join(config: DevicesConfig) -> None:
    """Joins the other processes of a run in several; a process by itself does nothing.

    Raises:
      ConfigError: when they cannot be found within about a minute.
    """
    if not config.distributed:
        return
    try:
        if config.coordinator is not None and config.process_id != 0:
            _await_listener(config.coordinator)  # JAX aborts the process where there is none
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            initialization_timeout=_PATIENCE_S,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--distributed: the other processes were not found ({str(error).splitlines()[0]}). "
            "Give all of them the same --coordinator HOST:PORT, at which process 0 listens, and "
            "the same --num-processes, and each its own --process-id."
        ) from error


def _await_listener(address: str) -> None:
    """Returns once somebody listens at host:port.

    Raises:
      OSError: when nobody does within a minute.
      ValueError: for what is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--coordinator is {address!r}, no HOST:PORT")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise OSError(f"nobody listens at {address}: {error}") from error
            time.sleep(0.5)


def is_first() -> bool:
    """Tells whether this process is the one that prints and writes what is not sharded."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns once all processes have come here.

    Args:
      what: the same in all of them, and another one at every place.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def any_of_all(flag: bool) -> bool:
    """Returns whether the flag is set in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(flag).any())
