"""Pre-norm transformer blocks, shared by the image and the text towers (Vaswani et al. 2017, arXiv:1706.03762).

Tokens travel as one matrix [B*N, D], so that every product is a plain matrix product: on CPUs XLA runs these at twice
the speed of the same product over [B, N, D], and accelerators do not mind. Only attention looks at [B, N, D].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        self.sow("intermediates", "weights", weights)  # Kept only where the caller asks for it.
        x = jnp.einsum("bqk,bkd->bqd", weights, qkv[2])
        x = x.reshape(-1, heads, length, dim).transpose(0, 2, 1, 3).reshape(-1, width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init, name="out")(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each branch dropped for an example with probability `drop`.

    Attributes:
      num_heads, mlp_dim, activation, epsilon, dtype: see `Transformer`.
    """

    num_heads: int
    mlp_dim: int
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        length: int,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
        drop: jax.Array | float = 0.0,
    ) -> jax.Array:
        y = LayerNorm(self.epsilon, self.dtype, name="attention_norm")(x)
        y = Attention(self.num_heads, self.dtype, name="attention")(y, length, mask)
        x = x + drop_path(y, keys, 0, drop)
        y = LayerNorm(self.epsilon, self.dtype, name="mlp_norm")(x)
        return x + drop_path(Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(y), keys, 1, drop)


def drop_path(x: jax.Array, keys: jax.Array | None, branch: int, rate: jax.Array | float) -> jax.Array:
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): a branch [B*N, D] is zero for an example, or 1/(1-rate).

    Args:
      x: the branch.
      keys: [B], one an example; None drops nothing.
      branch: which of a block's branches, so that each has draws of its own.
      rate: probability to drop.
    """
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, branch), 1 - rate))(keys)
    factor = (keep / (1 - rate)).astype(x.dtype)
    return (x.reshape(len(keys), -1) * factor[:, None]).reshape(x.shape)


class Transformer(nn.Module):
    """`depth` blocks and a last LayerNorm over B sequences of N tokens.

    Attributes:
      depth: number of blocks.
      num_heads: attention heads; they divide D.
      mlp_dim: width of the MLP's hidden layer; 4 D when None.
      activation: "gelu" (exact), "gelu_tanh" or "quick_gelu"; part of a checkpoint's identity.
      epsilon: of every LayerNorm.
      remat: recompute each block in the backward pass instead of keeping its activations: a third more
        arithmetic for memory that grows with one block instead of `depth`.
      dtype: compute dtype; parameters are float32.
      drop_path_rate: of the last block; it grows linearly from 0 at the first.
      scan: one program for all blocks, their parameters stacked as `blocks/...` [depth, ...]: compiles in the time of
        one block; without `remat` it keeps more for the backward pass than the unrolled form.
    """

    depth: int
    num_heads: int
    mlp_dim: int | None = None
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    drop_path_rate: float = 0.0
    scan: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, keys: jax.Array | None = None, last: int = 0
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Runs the blocks.

        Args:
          x: [B, N, D].
          mask: bool [B or 1, N, N], which keys a query sees; None for all.
          keys: [B] PRNG keys for drop path; None, as in evaluation, drops nothing.
          last: how many of the last blocks' outputs are returned beside.

        Returns:
          The tokens [B, N, D], and of each of the `last` blocks the tokens after the final norm, in order.
        """
        batch, length, width = x.shape
        rates = [self.drop_path_rate * layer / max(self.depth - 1, 1) for layer in range(self.depth)]
        keys = keys if self.drop_path_rate else None
        options = (self.num_heads, self.mlp_dim or 4 * width, self.activation, self.epsilon, self.dtype)
        run = self._scanned if self.scan else self._unrolled
        outputs = run(options, x.reshape(-1, width), length, mask, keys, rates, last)
        norm = LayerNorm(self.epsilon, self.dtype, name="norm")
        normed = [norm(output).reshape(batch, length, width) for output in outputs]
        return normed[-1], tuple(normed[-last:] if last else ())

    def _unrolled(
        self,
        options: tuple[Any, ...],
        x: jax.Array,
        length: int,
        mask: jax.Array | None,
        keys: jax.Array | None,
        rates: Sequence[float],
        last: int,
    ) -> list[jax.Array]:
        """Outputs of the blocks that are wanted, each with parameters of its own, `block_00`, `block_01`, ..."""
        block = nn.remat(Block, static_argnums=(2, 5)) if self.remat else Block
        outputs = []
        for layer, rate in enumerate(rates):
            own = None if keys is None else _fold_in(keys, layer)
            x = block(*options, name=f"block_{layer:02d}")(x, length, mask, own, rate)
            outputs.append(x)
        return outputs[-max(last, 1) :]

    def _scanned(
        self,
        options: tuple[Any, ...],
        x: jax.Array,
        length: int,
        mask: jax.Array | None,
        keys: jax.Array | None,
        rates: Sequence[float],
        last: int,
    ) -> list[jax.Array]:
        """The same with stacked parameters, `blocks`."""

        def body(block: Block, x: jax.Array, layer: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array | None]:
            own = None if keys is None else _fold_in(keys, layer)
            x = block(x, length, mask, own, rate)
            return x, x if last > 1 else None

        body = nn.remat(body, prevent_cse=False) if self.remat else body
        scan = nn.scan(
            body, variable_axes={"params": 0, "intermediates": 0}, split_rngs={"params": True}, length=self.depth
        )
        x, outputs = scan(Block(*options, name="blocks"), x, jnp.arange(self.depth), jnp.asarray(rates))
        return list(outputs[-last:]) if last > 1 else [x]


def _fold_in(keys: jax.Array, layer: jax.Array | int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, layer)


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
