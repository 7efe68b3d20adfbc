"""Pre-norm transformer blocks, shared by the image and the text towers (Vaswani et al. 2017, arXiv:1706.03762).

Tokens travel as one matrix [B*N, D], so that every product is a plain matrix product: on CPUs XLA runs these at twice
the speed of the same product over [B, N, D], and accelerators do not mind. Only attention looks at [B, N, D].
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.models.activations import ACTIVATIONS, Activation


class Mlp(nn.Module):
    """Linear, activation, linear: [M, D] -> [M, D]."""

    hidden_dim: int
    activation: Activation = "gelu"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = nn.Dense(self.hidden_dim, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="up")(x)
        x = ACTIVATIONS[self.activation](x)
        return nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="down")(x)


class Attention(nn.Module):
    """Multi-head self-attention over B sequences of N tokens given as one matrix: [B*N, D] -> [B*N, D].

    The product of queries and keys, the softmax and its sum are float32 whatever the compute dtype.
    """

    num_heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, length: int, mask: jax.Array | None = None) -> jax.Array:
        width, heads = x.shape[-1], self.num_heads
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        dim = width // heads
        kernel_init = nn.initializers.xavier_uniform()
        qkv = nn.DenseGeneral((3, heads, dim), dtype=self.dtype, kernel_init=kernel_init, name="qkv")(x)
        # Batch and heads become one leading axis: the form in which XLA's CPU products are fastest.
        qkv = qkv.reshape(-1, length, 3, heads, dim).transpose(2, 0, 3, 1, 4).reshape(3, -1, length, dim)
        scores = jnp.einsum("bqd,bkd->bqk", qkv[0], qkv[1], preferred_element_type=jnp.float32) * dim**-0.5
        if mask is not None:
            scores = jnp.where(jnp.repeat(mask, scores.shape[0] // mask.shape[0], axis=0), scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        x = jnp.einsum("bqk,bkd->bqd", weights, qkv[2])
        x = x.reshape(-1, heads, length, dim).transpose(0, 2, 1, 3).reshape(-1, width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init, name="out")(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    num_heads: int
    mlp_dim: int
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, length: int, mask: jax.Array | None = None) -> jax.Array:
        y = LayerNorm(self.epsilon, self.dtype, name="attention_norm")(x)
        x = x + Attention(self.num_heads, self.dtype, name="attention")(y, length, mask)
        y = LayerNorm(self.epsilon, self.dtype, name="mlp_norm")(x)
        return x + Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(y)


class Transformer(nn.Module):
    """`depth` blocks and a last LayerNorm over B sequences of N tokens: [B, N, D] -> [B, N, D].

    Attributes:
      depth: number of blocks.
      num_heads: attention heads; they divide D.
      mlp_dim: width of the MLP's hidden layer; 4 D when None.
      activation: "gelu" (exact), "gelu_tanh" or "quick_gelu"; part of a checkpoint's identity.
      epsilon: of every LayerNorm.
      remat: recompute each block in the backward pass instead of keeping its activations: a third more
        arithmetic for memory that grows with one block instead of `depth`.
      dtype: compute dtype; parameters are float32.
    """

    depth: int
    num_heads: int
    mlp_dim: int | None = None
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        batch, length, width = x.shape
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        x = x.reshape(-1, width)
        for layer in range(self.depth):
            x = block(
                self.num_heads,
                self.mlp_dim or 4 * width,
                self.activation,
                self.epsilon,
                self.dtype,
                name=f"block_{layer:02d}",
            )(x, length, mask)
        x = LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        return x.reshape(batch, length, width)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with float32 statistics, returned in the compute dtype."""

    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        return ((x - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)
