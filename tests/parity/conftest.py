"""Matrix products of every parity test are as exact as float32 is."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def _float32() -> Iterator[None]:
    with jax.default_matmul_precision("highest"):
        yield
