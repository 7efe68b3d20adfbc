"""The host's libraries, set for XLA on CPUs."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform

_ACCELERATORS = ("libtpu", "jax_plugins")  # Packages that bring a device other than the CPU.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


def prepare() -> None:
    """Sets what has to be set before JAX is imported; does nothing where there is another device than the CPU.

    OpenBLAS, which JAX calls for eigenvalues and the like, is given one thread: its threads and XLA's wait for one
    another, so that the 192 eigenvalues of a small encoder's features take 17 or 100 ms of a step instead of 1.
    """
    if any(importlib.util.find_spec(name) for name in _ACCELERATORS):
        return
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if platform.libc_ver()[0] == "glibc":
        _keep_heap()


def _keep_heap() -> None:
    """Has glibc keep freed memory, in one arena.

    Each step allocates the same temporaries. Given back to the system, every page of them is faulted in and zeroed
    again: kept, a small CLIP step runs 1.35 times as fast on two cores. Works only before JAX starts its threads.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # Never trim.
    libc.mallopt(_M_ARENA_MAX, 1)
