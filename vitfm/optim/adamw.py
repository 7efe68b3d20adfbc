"""Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101); the decay is common to all."""

from __future__ import annotations

from typing import Any

import optax


def make(*, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8, params: Any) -> optax.GradientTransformation:
    """Adam's direction.

    Args:
      b1, b2: decay of the first and second moment.
      epsilon: added to the root of the second moment.
      params: tree of the parameters' shapes, which Adam does not need.
    """
    del params
    return optax.scale_by_adam(b1, b2, epsilon)
