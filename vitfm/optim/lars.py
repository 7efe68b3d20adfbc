"""LARS: layer-wise adaptive rates, for convolutional networks in large batches (You et al. 2017, arXiv:1708.03888)."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vitfm import tree
from vitfm.config import ConfigError
from vitfm.optim import layers, rules


def make(
    *,
    momentum: float = 0.9,
    trust: float = 0.001,
    coupled_decay: float = 0.0,
    adapted: str = r"kernel$",
    params: Any,
) -> optax.GradientTransformation:
    """Momentum over gradients that are as long as `trust` times their parameter.

    For parameters of the pattern `adapted`, g = gradient + coupled_decay * parameter becomes trust * |parameter| / |g|
    * g; where one of both is zero, and for all other parameters, as norms and biases, the gradient stays as it is. This
    is SimCLR's (arXiv:2002.05709, appendix B.9), and MoCo v3's for ResNets. The learning rate multiplies the momentum
    afterwards, as in PyTorch's implementations; SimCLR's TensorFlow code has it inside. Both are one where the rate is
    constant.

    Args:
      momentum: weight of the past directions, which are summed, not averaged.
      trust: length of a gradient relative to its parameter's.
      coupled_decay: L2 penalty on what is adapted; the common `weight_decay`, which knows no trust ratio, stays 0.
      adapted: pattern of the parameter paths.
      params: tree of the parameters' shapes.

    Raises:
      ConfigError: the pattern names nothing, or trust is not above 0.
    """
    if trust <= 0:
        raise ConfigError(f"config.optim.trust = {trust} must be above 0.")
    rules.by_rule([(adapted, True)], params, False, "adapted")  # An idle pattern is an error.

    def scaled(path: Any, gradient: jax.Array, parameter: jax.Array) -> jax.Array:
        name = tree.name(path)
        if not re.search(adapted, name):
            return gradient
        axes = tuple(range(int(layers.is_stacked(name)), gradient.ndim))
        length = lambda x: jnp.sqrt(jnp.square(x).sum(axes, keepdims=True))
        gradient = gradient + coupled_decay * parameter
        whole, part = length(parameter), length(gradient)
        ratio = jnp.where((whole > 0) & (part > 0), trust * whole / jnp.where(part > 0, part, 1), 1)
        return gradient * ratio

    adapt = optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates, params))
    return optax.chain(adapt, optax.trace(momentum))
