"""The projection head of DINO: a bottleneck on the unit sphere, compared with prototypes."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.models.activations import ACTIVATIONS


class Prototypes(nn.Module):
    """Three linear maps with GELU between them, then cosines with K prototypes: [M, D] -> float32 [M, K].

    Caron et al. 2021 (arXiv:2104.14294), section 3.2 and appendix C: no batch norm; the last layer has no bias and
    weight-normed prototypes without a gain (`norm_last_layer` in the authors' code).

    Attributes:
      count: prototypes K.
      hidden_dim: width of the hidden layers.
      bottleneck_dim: width of the sphere.
      dtype: compute dtype; norms and the logits are float32.
    """

    count: int
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The authors' truncation at ±2 is a hundred standard deviations away.
        dense = lambda width, name: nn.Dense(
            width, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02), name=name
        )
        x = ACTIVATIONS["gelu"](dense(self.hidden_dim, "hidden_0")(x))
        x = ACTIVATIONS["gelu"](dense(self.hidden_dim, "hidden_1")(x))
        x = dense(self.bottleneck_dim, "bottleneck")(x)
        return Cosines(self.count, self.dtype, name="prototypes")(x)


class Cosines(nn.Module):
    """The cosines of rows with K learned directions: [M, D] -> float32 [M, K]."""

    count: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # torch's default for linear layers, uniform within ±1/√D: only the directions matter, and how soon they turn.
        kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", kernel_init, (x.shape[-1], self.count))
        x, kernel = _unit(x, -1).astype(self.dtype), _unit(kernel, 0).astype(self.dtype)
        return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _unit(x: jax.Array, axis: int) -> jax.Array:
    """Vectors along `axis` of L2 norm 1, in float32; zero stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis, keepdims=True), 1e-24))
