"""Two tiers: `pytest` runs what every push has to pass, `pytest -m slow` the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_unless(is_fast: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """For `parametrize` with one name: all values, those that are not fast marked `slow`."""
    return [pytest.param(value, marks=() if is_fast(value) else pytest.mark.slow) for value in values]
