"""Where a metric stays while a model learns."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a metric stays while a model learns.

    Attributes:
      why: what it tells outside of it.
      least, most: the range's ends, both inside.
      when: the metric that is 1 in steps in which this one is measured, and 0 in the others; "" where it always is.
    """

    why: str
    least: float = -math.inf
    most: float = math.inf
    when: str = ""
