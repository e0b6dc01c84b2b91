"""Keeps memory that XLA's CPU backend frees after every step with the process."""

import ctypes
import platform

# Of glibc's malloc.h: see mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes glibc's malloc return no freed memory to the kernel; does nothing with other libraries.

    Otherwise a step's scratch memory, some 100 MB, is returned at the end of the step, and the
    kernel zeroes it page by page for the next one. Call it before JAX's first computation: threads
    that already run keep their own memory pools.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
