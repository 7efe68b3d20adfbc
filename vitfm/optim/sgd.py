"""Stochastic gradient descent with momentum, as torch's: what convolutional networks are published with."""

from __future__ import annotations

import re
from typing import Any

import jax
import optax

from vitfm import tree
from vitfm.optim import rules


def make(
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    coupled_decay: float = 0.0,
    decayed: str = ".*",
    params: Any,
) -> optax.GradientTransformation:
    """The direction: momentum over the gradient plus `coupled_decay` times the parameter.

    Args:
      momentum: weight of the past directions, which are summed, not averaged.
      nesterov: look one step ahead.
      coupled_decay: L2 penalty, as torch's `weight_decay`. Unlike the common `weight_decay` it enters the momentum.
      decayed: pattern of the parameter paths that it is on; all of them as in torch, norms and biases too.
      params: tree of the parameters' shapes.

    Raises:
      ConfigError: the pattern names nothing.
    """
    rules.by_rule([(decayed, True)], params, False, "decayed")  # An idle pattern is an error.

    def penalised(path: Any, gradient: jax.Array, parameter: jax.Array) -> jax.Array:
        return gradient + coupled_decay * parameter if re.search(decayed, tree.name(path)) else gradient

    penalty = optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(penalised, updates, params))
    return optax.chain(penalty, optax.trace(momentum, nesterov))
