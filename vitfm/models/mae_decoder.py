"""The light decoder of a masked autoencoder (He et al. 2022, arXiv:2111.06377), thrown away after pretraining."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models.activations import Activation
from vitfm.models.position import sincos
from vitfm.models.transformer import Transformer


class Decoder(nn.Module):
    """Encoded visible patches -> the pixels of the hidden ones; see `make` for the attributes.

    The patches stay in the shuffled order in which they come, visible ones first, each with the position it has in the
    image: attention knows no order, so nothing has to be put back, and only hidden patches are turned into pixels.
    """

    outputs: int
    hidden_dim: int
    depth: int
    num_heads: int
    mlp_dim: int | None
    activation: Activation
    epsilon: float
    scan: bool
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, keep: jax.Array, hidden: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Predicts what the encoder was not shown.

        Args:
          tokens: [B, S+K, D], S special tokens, then the visible patches.
          keep: int [B, K], which patches these are, by their row-major number.
          hidden: int [B, M], the others.
          grid: rows and columns of patches.

        Returns:
          [B, M, outputs], one row for each hidden patch, in the order of `hidden`.
        """
        batch, length, _ = tokens.shape
        special = length - keep.shape[1]
        xavier = nn.initializers.xavier_uniform()
        embed = nn.Dense(self.hidden_dim, dtype=self.dtype, kernel_init=xavier, name="embed")
        x = embed(tokens.reshape(batch * length, -1)).reshape(batch, length, self.hidden_dim)
        position = sincos(grid, self.hidden_dim).reshape(-1, self.hidden_dim).astype(self.dtype)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.hidden_dim,)).astype(self.dtype)
        x = jnp.concatenate([x[:, :special], x[:, special:] + position[keep], mask_token + position[hidden]], axis=1)
        x, _ = Transformer(
            self.depth,
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.epsilon,
            self.remat,
            self.dtype,
            scan=self.scan,
            name="transformer",
        )(x)
        x = x[:, length:].reshape(-1, self.hidden_dim)
        pixels = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=xavier, name="pixels")(x)
        return pixels.reshape(batch, -1, self.outputs)


def make(
    *,
    outputs: int,
    hidden_dim: int = 512,
    depth: int = 8,
    num_heads: int = 16,
    mlp_dim: int | None = None,
    activation: Activation = "gelu",
    epsilon: float = 1e-6,
    scan: bool = False,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> Decoder:
    """A decoder; the defaults are the published one.

    Args:
      outputs: numbers in a patch.
      hidden_dim: width.
      depth: number of blocks.
      num_heads: attention heads; they divide `hidden_dim`.
      mlp_dim: hidden width of the MLPs; 4 hidden_dim when None.
      activation, epsilon, scan, remat: of the blocks, see `Transformer`.
      dtype: compute dtype; parameters are float32.
    """
    if hidden_dim % num_heads:
        raise ConfigError(f"Decoder: hidden_dim = {hidden_dim} does not divide into num_heads = {num_heads}.")
    if hidden_dim % 4:
        raise ConfigError(f"Decoder: hidden_dim = {hidden_dim} must be a multiple of 4 for its sin-cos positions.")
    return Decoder(outputs, hidden_dim, depth, num_heads, mlp_dim, activation, epsilon, scan, remat, dtype)
