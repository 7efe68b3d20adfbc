"""Every test sees eight devices, on any machine."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests import tiny

if "XLA_FLAGS" not in os.environ:  # The processes that share the tests have them from the one that started them.
    os.environ["XLA_FLAGS"] = tiny.flags(devices=8)
# XLA's CPU devices share a pool of as many threads as there are cores or devices. Collectives that do not depend on one
# another may start in another order on each device; where they fill the pool, all wait for those that found no thread.
os.environ.setdefault("PJRT_NPROC", "64")
_MAPS = pathlib.Path("/proc/self/maps")  # Of Linux: a line for each mapping of memory.


@pytest.fixture(autouse=True)
def _no_compile_cache_for_the_next() -> Iterator[None]:
    """A run points JAX at its own compiled programs, and JAX would write those of all later tests there, too."""
    yield
    if jax.config.jax_compilation_cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def _few_enough_programs() -> Iterator[None]:
    """Each compiled program holds mappings of memory; beyond the kernel's limit, 65,530 a process, XLA crashes."""
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
