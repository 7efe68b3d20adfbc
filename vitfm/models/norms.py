"""Normalisation over the last axis, with float32 statistics whatever the compute dtype."""

from __future__ import annotations

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Norm = Literal["layer", "rms"]


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with float32 statistics, returned in the compute dtype."""

    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", self.scale_init, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return rms_norm(x, scale, self.epsilon).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Float32 [..., D] of x [..., D]; what it keeps for its derivative is x itself and two numbers a row.

    XLA on CPUs fuses the derivative that it is given into every reader of its result. Differentiated step by step
    that ends in the sum over a row, so cheap that the sums of all later blocks are fused along and done again in each.
    """
    return _layer_norm(x, scale, bias, epsilon)[0]


def _layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    return (wide - mean) * inverse * scale + bias, (x, scale, mean, inverse)


def _of_layer_norm(epsilon: float, kept: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    x, scale, mean, inverse = kept
    unit, rows = (x.astype(jnp.float32) - mean) * inverse, tuple(range(x.ndim - 1))
    of_scale, of_bias = (gradient * unit).sum(rows), gradient.sum(rows)
    gradient = gradient * scale
    along = gradient.mean(-1, keepdims=True) + unit * (gradient * unit).mean(-1, keepdims=True)
    return ((gradient - along) * inverse).astype(x.dtype), of_scale, of_bias


layer_norm.defvjp(_layer_norm, _of_layer_norm)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Float32 [..., D] of x [..., D], with a derivative like that of `layer_norm`."""
    return _rms_norm(x, scale, epsilon)[0]


def _rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return wide * inverse * scale, (x, scale, inverse)


def _of_rms_norm(epsilon: float, kept: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, ...]:
    x, scale, inverse = kept
    unit = x.astype(jnp.float32) * inverse
    of_scale = (gradient * unit).sum(tuple(range(x.ndim - 1)))
    gradient = gradient * scale
    return ((gradient - unit * (gradient * unit).mean(-1, keepdims=True)) * inverse).astype(x.dtype), of_scale


rms_norm.defvjp(_rms_norm, _of_rms_norm)

NORMS: dict[Norm, type[nn.Module]] = {"layer": LayerNorm, "rms": RMSNorm}
