"""AIM's prediction head (El-Nouby et al. 2024, arXiv:2401.08541, section 4), thrown away after pretraining."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models.activations import Activation
from vitfm.models.mlp import Mlp
from vitfm.models.norms import LayerNorm
from vitfm.models.position import Grid, sincos


class Head(nn.Module):
    """Blocks of MLPs over each token by itself, after which its pixels are linear; see `make` for the attributes."""

    outputs: int
    hidden_dim: int
    depth: int
    mlp_dim: int | None
    activation: Activation
    epsilon: float
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, grid: Grid) -> jax.Array:
        """[B, h*w, D] of a `grid` of h rows and w columns -> [B, h*w, outputs]."""

        def linear(name: str, width: int, x: jax.Array) -> jax.Array:
            xavier = nn.initializers.xavier_uniform()
            return nn.Dense(width, self.use_bias, self.dtype, kernel_init=xavier, name=name)(x)

        width = tokens.shape[-1]
        position = sincos(grid, width).reshape(-1, width).astype(self.dtype)
        x = linear("embed", self.hidden_dim, (tokens + position).reshape(-1, width))
        for layer in range(self.depth):
            y = LayerNorm(self.epsilon, self.dtype, name=f"norm_{layer:02d}")(x)
            options = (self.mlp_dim or 4 * self.hidden_dim, self.activation, self.dtype, False, self.use_bias)
            x = x + Mlp(*options, name=f"mlp_{layer:02d}")(y)
        x = LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        return linear("pixels", self.outputs, x).reshape(*tokens.shape[:2], self.outputs)


def make(
    *,
    outputs: int,
    hidden_dim: int = 2048,
    depth: int = 12,
    mlp_dim: int | None = None,
    activation: Activation = "gelu",
    epsilon: float = 1e-6,
    use_bias: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> Head:
    """A head; the defaults are the published one.

    Args:
      outputs: numbers in a patch.
      hidden_dim: width.
      depth: number of blocks.
      mlp_dim: hidden width of the MLPs; 4 hidden_dim when None.
      activation, epsilon: of the blocks.
      use_bias: biases in the linear maps.
      dtype: compute dtype; parameters are float32.
    """
    if depth < 0:
        raise ConfigError(f"AIM's head: depth = {depth} must be at least 0.")
    return Head(outputs, hidden_dim, depth, mlp_dim, activation, epsilon, use_bias, dtype)
