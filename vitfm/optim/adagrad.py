"""AdaGrad (Duchi et al. 2011, JMLR 12:2121-2159): steps shrink with all gradients so far, as FaceNet was trained."""

from __future__ import annotations

from typing import Any

import optax


def make(*, initial: float = 0.1, epsilon: float = 1e-7, params: Any) -> optax.GradientTransformation:
    """The direction: gradients over the root of the sum of all their squares.

    Args:
      initial: what the sums begin with; TensorFlow's 0.1, torch has 0.
      epsilon: added to the sums.
      params: tree of the parameters' shapes, which AdaGrad does not need.
    """
    del params
    return optax.scale_by_rss(initial, epsilon)
