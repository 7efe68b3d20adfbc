"""From a sequence of tokens to one vector, or to a few, by attention."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models.activations import Activation
from vitfm.models.cross_attention import CrossAttention
from vitfm.models.mlp import Mlp
from vitfm.models.norms import NORMS, LayerNorm, Norm


class AttentionPool(nn.Module):
    """One learned query looks at all tokens: [B, N, D] -> [B, D]; or at those of a mask [B, N].

    Attributes:
      num_heads: they divide D.
      kind: "map", multi-head attention pooling, where the query too is projected and a normed MLP with a residual
        connection follows (Zhai et al. 2022, arXiv:2106.04560; SigLIP), or "aim", which has neither (AIM, El-Nouby et
        al. 2024, arXiv:2401.08541, section 4).
      mlp_dim, activation, norm, epsilon: of that MLP, and its norm.
      use_bias: biases of queries, keys and values.
      dtype: compute dtype; parameters are float32.
    """

    num_heads: int
    kind: Literal["map", "aim"]
    mlp_dim: int
    activation: Activation = "gelu"
    norm: Norm = "layer"
    epsilon: float = 1e-6
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        batch, length, width = x.shape
        heads, dim = self.num_heads, width // self.num_heads
        query = self.param("query_token", nn.initializers.normal(0.02), (width,)).astype(self.dtype)
        if self.kind == "map":
            kernel, bias = _Linears((3, heads, dim), self.use_bias, self.dtype, name="qkv")(width)
            query = query @ kernel[:, : dim * heads] + bias[: dim * heads]
            kernel, bias = kernel[:, dim * heads :], bias[dim * heads :]
        else:
            kernel, bias = _Linears((2, heads, dim), self.use_bias, self.dtype, name="kv")(width)
        query = query.reshape(heads, dim)
        key, value = jnp.moveaxis((x.reshape(-1, width) @ kernel + bias).reshape(batch, length, 2, heads, dim), 2, 0)
        scores = jnp.einsum("hd,bkhd->bhk", query, key, preferred_element_type=jnp.float32) * dim**-0.5
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        x = jnp.einsum("bhk,bkhd->bhd", weights, value).reshape(batch, width)
        x = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="out")(x)
        if self.kind == "aim":
            return x
        y = NORMS[self.norm](self.epsilon, self.dtype, name="norm")(x)
        return x + Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(y)


class _Linears(nn.Module):
    """Parameters of several linear maps, for a caller that applies them to different things."""

    shape: tuple[int, int, int]
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        """One after another, kernels as [D, outputs] and biases as [outputs]; the parameters keep `shape` apart."""
        drawn = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=0, out_axis=(2, 3), batch_axis=1)
        kernel = self.param("kernel", drawn, (width, *self.shape))
        bias = self.param("bias", nn.initializers.zeros, self.shape) if self.use_bias else jnp.zeros(self.shape)
        return kernel.reshape(width, -1).astype(self.dtype), bias.reshape(-1).astype(self.dtype)


class AttentionalPooler(nn.Module):
    """Learned queries look at all tokens, or at those of a mask [B, N]: [B, N, C] -> [B, queries, width].

    One layer of multi-head attention (CoCa, Yu et al. 2022, arXiv:2205.01917, section 3.2), with norms of queries and
    tokens as open_clip has them.

    Attributes:
      queries: how many.
      width: of the output.
      num_heads: they divide `width`.
      epsilon: of the norms.
      dtype: compute dtype; parameters are float32.
    """

    queries: int
    width: int
    num_heads: int
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        queries = self.param("query_tokens", nn.initializers.normal(0.02), (self.queries, self.width))
        queries = LayerNorm(self.epsilon, self.dtype, name="query_norm")(queries[None].astype(self.dtype))
        x = LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        return CrossAttention(self.width, self.num_heads, self.dtype, name="attention")(queries, x, mask)


class TaskPoolers(nn.Module):
    """An encoder's tokens as two tasks need them: [B, N, C] -> one vector [B, width], and [B, M, width].

    Attributes:
      queries, width, num_heads, epsilon, dtype: of the pooler of several queries, see `AttentionalPooler`.
      kind: where the vector comes from. "cascade", a pooler of one query over what the other gives, and "parallel", one
        over the encoder's tokens, are CoCa's; "first", the first of the several queries, after a norm and no longer
        among the tokens, is that of open_clip's published weights.
    """

    queries: int
    width: int
    num_heads: int
    kind: Literal["cascade", "parallel", "first"] = "cascade"
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        options = (self.width, self.num_heads, self.epsilon, self.dtype)
        tokens = AttentionalPooler(self.queries, *options, name="several")(x, mask)
        if self.kind == "first":
            tokens = LayerNorm(self.epsilon, self.dtype, name="norm")(tokens)
            return tokens[:, 0], tokens[:, 1:]
        one = AttentionalPooler(1, *options, name="one")
        return (one(tokens) if self.kind == "cascade" else one(x, mask))[:, 0], tokens


def task_poolers(
    *,
    hidden_dim: int,
    queries: int = 256,
    num_heads: int = 8,
    kind: Literal["cascade", "parallel", "first"] = "cascade",
    epsilon: float = 1e-5,
    dtype: jnp.dtype = jnp.float32,
) -> TaskPoolers:
    """CoCa's poolers; `hidden_dim` is their `width`, see `TaskPoolers`."""
    least = 2 if kind == "first" else 1
    if queries < least or hidden_dim % num_heads:
        raise ConfigError(
            f"config.objective.pooler: queries = {queries} must be at least {least}, and num_heads = {num_heads} must "
            f"divide hidden_dim = {hidden_dim}."
        )
    return TaskPoolers(queries, hidden_dim, num_heads, kind, epsilon, dtype)
