"""GELU in the three forms that published checkpoints use, and SiLU, each with its derivative written out.

Left to differentiate them, JAX keeps several arrays of the MLP's full width between the passes; here only the input is
kept. On two CPU cores that alone takes a third off the time of an MLP's forward and backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]


def _with_derivative(
    function: Callable[[jax.Array], jax.Array], derivative: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """`function` whose backward pass is `derivative` at the saved input."""
    wrapped, again = jax.custom_vjp(function), jax.lax.optimization_barrier  # XLA would keep what both passes compute.
    wrapped.defvjp(lambda x: (function(x), x), lambda x, cotangent: (derivative(again(x)) * cotangent,))
    return wrapped


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_derivative(x: jax.Array) -> jax.Array:
    return _normal_cdf(x) + x * jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


_TANH_SCALE, _TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715


def _tanh_term(x: jax.Array) -> jax.Array:
    return jnp.tanh(_TANH_SCALE * (x + _TANH_CUBIC * x * x * x))


def _gelu_tanh_derivative(x: jax.Array) -> jax.Array:
    t = _tanh_term(x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _TANH_SCALE * (1 + 3 * _TANH_CUBIC * x * x)


def _quick_gelu_derivative(x: jax.Array) -> jax.Array:
    s = jax.nn.sigmoid(1.702 * x)
    return s * (1 + 1.702 * x * (1 - s))


def _silu_derivative(x: jax.Array) -> jax.Array:
    s = jax.nn.sigmoid(x)
    return s * (1 + x * (1 - s))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    # Hendrycks and Gimpel 2016 (arXiv:1606.08415), exact: timm's, open_clip's and DINOv2's.
    "gelu": _with_derivative(lambda x: x * _normal_cdf(x), _gelu_derivative),
    # The same paper's approximation by tanh: big_vision's, SigLIP's.
    "gelu_tanh": _with_derivative(lambda x: 0.5 * x * (1 + _tanh_term(x)), _gelu_tanh_derivative),
    # x * sigmoid(1.702 x): OpenAI CLIP's.
    "quick_gelu": _with_derivative(lambda x: x * jax.nn.sigmoid(1.702 * x), _quick_gelu_derivative),
    # x * sigmoid(x), the gate of SwiGLU (Shazeer 2020, arXiv:2002.05202): DINOv2's and DINOv3's largest, AIMv2's.
    "silu": _with_derivative(lambda x: x * jax.nn.sigmoid(x), _silu_derivative),
}
