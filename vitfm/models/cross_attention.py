"""Attention of one sequence to another: poolers over an encoder's tokens, captions that look at images."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.models import dot_product
from vitfm.models.attention import Projection

KeysValues = tuple[jax.Array, jax.Array]  # Each [B, heads, M, D/heads].


class CrossAttention(nn.Module):
    """Multi-head attention of [B, N, D] to [B, M, C] -> [B, N, D].

    Attributes:
      width: D.
      num_heads: they divide D.
      dtype: compute dtype; parameters are float32.
    """

    width: int
    num_heads: int
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        heads = (self.num_heads, self.width // self.num_heads)
        self.query = Projection((1, *heads), dtype=self.dtype)
        self.kv = Projection((2, *heads), dtype=self.dtype)
        self.out = nn.Dense(self.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform())

    def __call__(self, x: jax.Array, context: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """`x` [B or 1, N, D] looks at `context` [B, M, C], or at its tokens of a mask [B, M]."""
        return self.attend(x, self.keys_values(context), mask)

    def keys_values(self, context: jax.Array) -> KeysValues:
        """What is seen of [B, M, C], once for all that look at it."""
        rows = self.kv(context.reshape(-1, context.shape[-1]))
        rows = rows.reshape(*context.shape[:2], 2, self.num_heads, -1)
        key, value = rows.transpose(2, 0, 3, 1, 4)
        return key, value

    def attend(self, x: jax.Array, seen: KeysValues, mask: jax.Array | None = None) -> jax.Array:
        """`x` [B or 1, N, D]; where it is one for all, its queries are computed once."""
        (batch, *_), (_, length, width) = seen[0].shape, x.shape
        query = self.query(x.reshape(-1, width)).reshape(-1, length, self.num_heads, width // self.num_heads)
        query = jnp.broadcast_to(query.transpose(0, 2, 1, 3), (batch, self.num_heads, length, width // self.num_heads))
        x = dot_product.attend(query, *seen, None, None if mask is None else mask[:, None])
        return self.out(x.transpose(0, 2, 1, 3).reshape(-1, width)).reshape(batch, length, width)
