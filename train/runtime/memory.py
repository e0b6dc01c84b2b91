"""Memory that XLA's CPU backend frees after every step stays with the process."""

import ctypes
import platform

# Of glibc's malloc.h: see mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Tells glibc's malloc to hand no freed memory back to the kernel; elsewhere does nothing.

    A step's scratch memory, some 100 MB, otherwise goes back when the step ends, and the kernel
    zeroes it page by page for the next one. Call it before JAX's first computation: threads that
    run by then keep memory pools of their own.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_ARENA_MAX, 1)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
