"""A block's MLP."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.models.activations import ACTIVATIONS, Activation


class Mlp(nn.Module):
    """Linear, activation, linear: [..., D] -> [..., D].

    Attributes:
      hidden_dim: width between the linear maps.
      activation: its name; SwiGLU is a gated MLP with "silu".
      dtype: compute dtype; parameters are float32.
      gated: down(activation(gate(x)) * up(x)), the gated units of Shazeer 2020 (arXiv:2002.05202), in place of
        down(activation(up(x))).
      use_bias: biases in the linear maps.
    """

    hidden_dim: int
    activation: Activation = "gelu"
    dtype: jnp.dtype = jnp.float32
    gated: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def linear(name: str, width: int, x: jax.Array) -> jax.Array:
            kernel_init = nn.initializers.xavier_uniform()
            return nn.Dense(width, self.use_bias, self.dtype, kernel_init=kernel_init, name=name)(x)

        activate, up = ACTIVATIONS[self.activation], linear("up", self.hidden_dim, x)
        hidden = activate(linear("gate", self.hidden_dim, x)) * up if self.gated else activate(up)
        return linear("down", x.shape[-1], hidden)
