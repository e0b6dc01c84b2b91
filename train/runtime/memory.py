"""Keeps memory that XLA's CPU backend frees after every step with the process."""

import ctypes
import os
import platform
from importlib.metadata import entry_points
from importlib.util import find_spec

import jax

# Of glibc's malloc.h: see mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_MOST_CORES_OF_ONE_ARENA = 8


def keep_freed_memory() -> None:
    """Makes glibc's malloc return no freed memory to the kernel, where JAX computes on the CPU.

    Otherwise a step's scratch memory, some 100 MB, is returned at the end of the step, and the
    kernel zeroes it page by page for the next one. Call it before JAX's first computation: threads
    that already run keep their own memory pools.

    Up to 8 cores there is one pool for all threads, since malloc always returns blocks beyond
    64 MB of the other pools. With more cores the threads that compile programs would wait for it.
    Nothing changes with an accelerator, whose scratch memory is not malloc's, or another libc.
    """
    if platform.libc_ver()[0] != "glibc" or not computes_on_cpu():
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    if len(os.sched_getaffinity(0)) <= _MOST_CORES_OF_ONE_ARENA:
        libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def computes_on_cpu() -> bool:
    """Returns whether JAX's default backend will be the CPU; does not initialise a backend.

    It is where JAX_PLATFORMS names the CPU first, or names nothing and no plugin of an accelerator
    is installed. A plugin without its device counts as an accelerator.
    """
    if platforms := getattr(jax.config, "jax_platforms", None):  # JAX_PLATFORMS, or set in Python
        return platforms.split(",")[0].strip().lower() == "cpu"
    plugins = find_spec("jax_plugins") is not None or bool(entry_points(group="jax_plugins"))
    return not plugins and find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ
