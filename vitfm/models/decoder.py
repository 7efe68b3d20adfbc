"""Blocks of a causal decoder, with or without cross-attention, that also decode one token at a time.

Parameters are called as those of `vitfm.models.transformer`: a decoder can start from CLIP's text tower.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.models import dot_product
from vitfm.models.activations import Activation
from vitfm.models.attention import Projection
from vitfm.models.cross_attention import CrossAttention, KeysValues
from vitfm.models.mlp import Mlp
from vitfm.models.norms import LayerNorm


class SelfAttention(nn.Module):
    """Multi-head self-attention over [B, N, D], which remembers keys and values where there is a past.

    Attributes:
      num_heads: they divide D.
      dtype: compute dtype; parameters are float32.
    """

    num_heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, past: KeysValues | None = None, position: jax.Array | None = None
    ) -> tuple[jax.Array, KeysValues]:
        """Attends.

        Args:
          x: [B, N, D]; one token each, [B, 1, D], where there is a past.
          mask: bool [B or 1, N, M], which keys a query sees; M is N, or the length of the past.
          past: keys and values of the tokens so far, in as many places as there may be tokens.
          position: [B], the place of the new token.

        Returns:
          [B, N, D], and the keys and values, the new one's in its place.
        """
        batch, length, width = x.shape
        shape = (3, self.num_heads, width // self.num_heads)
        rows = Projection(shape, dtype=self.dtype, name="qkv")(x.reshape(-1, width))
        query, key, value = rows.reshape(batch, length, *shape).transpose(2, 0, 3, 1, 4)
        if past is not None:
            here = jnp.arange(past[0].shape[2])[:, None] == position[:, None, None, None]
            key, value = (jnp.where(here, new, old) for new, old in zip((key, value), past, strict=True))
        x = dot_product.attend(query, key, value, None, mask).transpose(0, 2, 1, 3).reshape(-1, width)
        out = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="out")
        return out(x).reshape(batch, length, width), (key, value)


class Block(nn.Module):
    """Self-attention, cross-attention where there is any, and an MLP, each behind a norm and beside the identity.

    Attributes:
      num_heads, mlp_dim, activation, epsilon, cross, two_mlps, dtype: see `Decoder`.
      width: D.
    """

    width: int
    num_heads: int
    mlp_dim: int
    activation: Activation
    epsilon: float
    cross: bool
    two_mlps: bool
    dtype: jnp.dtype

    def setup(self) -> None:
        norm = lambda: LayerNorm(self.epsilon, self.dtype)
        mlp = lambda: Mlp(self.mlp_dim, self.activation, self.dtype)
        self.attention_norm, self.attention = norm(), SelfAttention(self.num_heads, self.dtype)
        if self.cross and self.two_mlps:
            self.inner_mlp_norm, self.inner_mlp = norm(), mlp()
        if self.cross:
            self.cross_norm, self.context_norm = norm(), norm()
            self.cross_attention = CrossAttention(self.width, self.num_heads, self.dtype)
        self.mlp_norm, self.mlp = norm(), mlp()

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        seen: KeysValues | None = None,
        past: KeysValues | None = None,
        position: jax.Array | None = None,
    ) -> tuple[jax.Array, KeysValues]:
        """`seen` [b, ...] is of `look`; consecutive rows of `x` [B, N, D] look at the same where b divides B."""
        y, past = self.attention(self.attention_norm(x), mask, past, position)
        x = x + y
        if self.cross:
            x = _rows(self.inner_mlp, self.inner_mlp_norm(x), x) if self.two_mlps else x
            queries = self.cross_norm(x).reshape(len(seen[0]), -1, self.width)
            x = x + self.cross_attention.attend(queries, seen).reshape(x.shape)
        return _rows(self.mlp, self.mlp_norm(x), x), past

    def look(self, context: jax.Array) -> KeysValues:
        """What the cross-attention sees of a context [B, M, C]."""
        return self.cross_attention.keys_values(self.context_norm(context))


def _rows(mlp: Mlp, y: jax.Array, x: jax.Array) -> jax.Array:
    """x + mlp(y), as products of plain matrices."""
    return x + mlp(y.reshape(-1, y.shape[-1])).reshape(x.shape)


class Decoder(nn.Module):
    """`depth` blocks over B sequences of N tokens; the last norm, `norm`, is the caller's to apply.

    Attributes:
      depth: number of blocks.
      width: D.
      num_heads: attention heads; they divide D.
      mlp_dim: width of the MLPs' hidden layer; 4 D when None.
      activation, epsilon: of the blocks.
      remat: recompute each block in the backward pass instead of keeping its activations.
      dtype: compute dtype; parameters are float32.
      cross: cross-attention to a context after each self-attention.
      two_mlps: an MLP before the cross-attention, too.
    """

    depth: int
    width: int
    num_heads: int
    mlp_dim: int | None
    activation: Activation
    epsilon: float
    remat: bool
    dtype: jnp.dtype
    cross: bool = False
    two_mlps: bool = False

    def setup(self) -> None:
        made = nn.remat(Block) if self.remat else Block
        sizes = (self.width, self.num_heads, self.mlp_dim or 4 * self.width, self.activation, self.epsilon)
        for name in self._names():
            setattr(self, name, made(*sizes, self.cross, self.two_mlps, self.dtype))
        self.norm = LayerNorm(self.epsilon, self.dtype)

    def __call__(self, x: jax.Array, mask: jax.Array, context: jax.Array | None = None) -> jax.Array:
        """[B, N, D], of which each token sees those of a mask [B or 1, N, N] and all of a context [B, M, C]."""
        for block in self._blocks():
            x, _ = block(x, mask, block.look(context) if self.cross else None)
        return x

    def look(self, context: jax.Array) -> tuple[KeysValues, ...]:
        """What each block sees of a context [B, M, C], for `step`."""
        return tuple(block.look(context) for block in self._blocks())

    def step(
        self,
        x: jax.Array,
        past: tuple[KeysValues, ...],
        position: jax.Array,
        seen: tuple[KeysValues, ...] | None = None,
    ) -> tuple[jax.Array, tuple[KeysValues, ...]]:
        """The next token of each sequence.

        Args:
          x: [B, 1, D], the new tokens.
          past: of the tokens before them, first `empty`.
          position: [B], how many these are.
          seen: from `look`, for b contexts: consecutive B/b sequences are of the same.

        Returns:
          [B, 1, D], equal to that row of a call with all tokens, and what is now past.
        """
        mask = (jnp.arange(past[0][0].shape[2]) <= position[:, None])[:, None]
        now = []
        for block, old, other in zip(self._blocks(), past, seen or [None] * self.depth, strict=True):
            x, new = block(x, mask, other, old, position)
            now.append(new)
        return x, tuple(now)

    def empty(self, batch: int, length: int) -> tuple[KeysValues, ...]:
        """The past of `batch` sequences, with room for `length` tokens."""
        zeros = jnp.zeros((batch, self.num_heads, length, self.width // self.num_heads), self.dtype)
        return ((zeros, zeros),) * self.depth

    def _names(self) -> list[str]:
        return [f"block_{layer:02d}" for layer in range(self.depth)]

    def _blocks(self) -> list[Block]:
        return [getattr(self, name) for name in self._names()]
