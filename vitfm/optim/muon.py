"""Muon: momentum, orthogonalised by Newton-Schulz, for matrices; NAdam for the rest (Jordan et al. 2024).

The update of each matrix is scaled to the root mean square of Adam's (Liu et al. 2025, arXiv:2502.16982), so that one
learning rate and one weight decay serve both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from vitfm import tree
from vitfm.config import ConfigError
from vitfm.optim import layers

_JOINT = re.compile(r"(qkv|kv|query)/kernel$")
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Of Jordan et al.: the steepest at 0, where they need not converge to 1.
_MOST_BY_GRAM = 5  # Steps: each multiplies rounding errors of the Gram matrix by up to twelve.


def _dimensions(name: str, leaf: Any) -> contrib.MuonDimensionNumbers:
    """Kernels are [in, out]; the joint one of attention, [in, 3, heads, head width], is three matrices; a
    convolution's, [height, width, in, out], is one (Jordan et al. 2024).

    Those of stacked blocks have one more axis in front, and are as many matrices as there are blocks.
    """
    first = int(layers.is_stacked(name))
    if len(leaf.shape) - first == 4 and not _JOINT.search(name):
        return contrib.MuonDimensionNumbers(reduction_axis=(first, first + 1, first + 2), output_axis=first + 3)
    if len(leaf.shape) - first == 4:
        return contrib.MuonDimensionNumbers(reduction_axis=first, output_axis=(first + 2, first + 3))
    return contrib.MuonDimensionNumbers(reduction_axis=first, output_axis=first + 1)


def make(
    *,
    beta: float = 0.95,
    newton_schulz_steps: int = 5,
    rms: float = 0.2,
    matrices: str = r"block(s|_\d+)/((?!depthwise).)*kernel$",
    b1: float = 0.9,
    b2: float = 0.95,
    epsilon: float = 1e-8,
    adam_learning_rate: float = 1.0,
    params: Any,
) -> optax.GradientTransformation:
    """Muon's direction.

    Args:
      beta: decay of the momentum (Nesterov's form).
      newton_schulz_steps: iterations of the orthogonalisation.
      rms: root mean square of a matrix's update, relative to the learning rate.
      matrices: pattern of the parameter paths that Muon moves; Adam moves the others, filters of one channel too.
      b1, b2, epsilon: of Adam, which has Nesterov's momentum here (Dozat 2016).
      adam_learning_rate: of Adam's part, relative to the common learning rate.
      params: tree of the parameters' shapes.
    """
    tree.by_rule(((matrices, True), (".*", False)), params, where="optim.matrices")  # An idle pattern is an error.
    for name, leaf in tree.named_leaves(params):
        if re.search(matrices, name) and len(leaf.shape) - layers.is_stacked(name) not in (2, 4):
            raise ConfigError(f"config.optim.matrices = {matrices!r} names {name} of shape {leaf.shape}, no matrix.")
    dimensions = lambda path, leaf: _dimensions(tree.name(path), leaf) if re.search(matrices, tree.name(path)) else None
    muon = contrib.muon(
        learning_rate=1.0,
        beta=beta,
        ns_steps=0,  # Matrices come divided by their norm; what is iterated is below, in the form each device likes.
        consistent_rms=rms,
        eps=epsilon,
        adam_b1=b1,
        adam_b2=b2,
        adam_learning_rate=adam_learning_rate,
        muon_weight_dimension_numbers=lambda leaves: jax.tree_util.tree_map_with_path(dimensions, leaves),
    )

    def orthogonal(path: Any, leaf: jax.Array) -> jax.Array:
        numbers = dimensions(path, leaf)
        if numbers is None:
            return leaf
        stack, unstack = _stacking(leaf.shape, numbers)
        matrix = stack(leaf)
        scale = rms * math.sqrt(max(matrix.shape[-2:]))
        return unstack(scale * newton_schulz(matrix / scale, newton_schulz_steps))

    iterated = optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(orthogonal, updates))
    # contrib.muon descends; the learning rate, applied later, does too.
    return optax.chain(muon, iterated, optax.scale(-1.0))


def newton_schulz(x: jax.Array, steps: int) -> jax.Array:
    """Brings the singular values of matrices [..., n, m] towards 1, those of a norm of at most 1.

    Each step is a X + (b X Xᵀ + c (X Xᵀ)²) X, on the narrow side. On CPUs the steps of matrices at least twice as wide
    as high are taken on their Gram matrix X Xᵀ alone, of which every step is a polynomial, and X is multiplied once.

    Args:
      x: the matrices; each is iterated by itself.
      steps: how many.
    """
    if x.shape[-2] > x.shape[-1]:
        return _turned(newton_schulz(_turned(x), steps))
    if x.shape[-1] < 2 * x.shape[-2] or not 0 < steps <= _MOST_BY_GRAM or x.dtype != jnp.float32:
        return _plain(x, steps)
    # Elsewhere products of float32 may be of fewer bits, which the Gram matrix does not bear.
    return jax.lax.platform_dependent(x, cpu=lambda x: _by_gram(x, steps), default=lambda x: _plain(x, steps))


def _plain(x: jax.Array, steps: int) -> jax.Array:
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = x @ _turned(x)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _by_gram(x: jax.Array, steps: int) -> jax.Array:
    """With G = X Xᵀ and P = a + b G + c G², X becomes P X, and G becomes P G P."""
    a, b, c = _COEFFICIENTS
    gram, product = x @ _turned(x), None
    for step in range(steps):
        factor = a * jnp.eye(x.shape[-2]) + b * gram + c * gram @ gram
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor if step < steps - 1 else gram
    return product @ x


def _turned(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -2, -1)


def _stacking(
    shape: tuple[int, ...], numbers: contrib.MuonDimensionNumbers
) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """Functions from a parameter of `shape` to its matrices [..., in, out], and back."""
    rows, columns = (np.atleast_1d(axes) for axes in numbers)
    others = np.setdiff1d(np.arange(len(shape)), [*rows, *columns])
    order = (*others, *rows, *columns)
    turned = tuple(shape[axis] for axis in order)
    flat = (*turned[: len(others)], math.prod(turned[len(others) : -len(columns)]), math.prod(turned[-len(columns) :]))
    return (
        lambda x: x.transpose(order).reshape(flat),
        lambda x: x.reshape(turned).transpose(np.argsort(order)),
    )
