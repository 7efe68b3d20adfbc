"""Text transformer of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4)."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.activations import Activation
from vitfm.models.transformer import Transformer


class TextTransformer(nn.Module):
    """Token ids [B, T] and their mask [B, T] -> Features; see `make` for the attributes."""

    vocab_size: int
    length: int
    hidden_dim: int
    depth: int
    num_heads: int
    mlp_dim: int | None
    causal: bool
    pool: Literal["last", "mean"]
    activation: Activation
    epsilon: float
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, text: jax.Array, text_mask: jax.Array) -> Features:
        length = text.shape[1]
        if length > self.length:
            raise ValueError(f"text of {length} tokens for a tower of {self.length}")
        embedding = self.param("embedding", nn.initializers.normal(0.02), (self.vocab_size, self.hidden_dim))
        position = self.param("position", nn.initializers.normal(0.01), (self.length, self.hidden_dim))
        x = (jnp.take(embedding, text, axis=0) + position[:length]).astype(self.dtype)
        # Under a causal mask no token sees the padding behind it, so only the other form needs the padding masked.
        mask = jnp.tri(length, dtype=bool)[None] if self.causal else text_mask[:, None, :].repeat(length, 1)
        tokens, _ = Transformer(
            self.depth,
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.epsilon,
            self.remat,
            self.dtype,
            name="transformer",
        )(x, mask)
        if self.pool == "last":
            last = text_mask.sum(1) - 1
            pooled = jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]
        else:
            weight = text_mask.astype(jnp.float32)[..., None]
            pooled = ((tokens * weight).sum(1) / weight.sum(1)).astype(self.dtype)
        return Features(pooled, tokens)


def make(
    *,
    vocab_size: int,
    length: int,
    hidden_dim: int = 512,
    depth: int = 12,
    num_heads: int = 8,
    mlp_dim: int | None = None,
    causal: bool = True,
    pool: Literal["last", "mean"] = "last",
    activation: Activation = "gelu",
    epsilon: float = 1e-5,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> TextTransformer:
    """A text tower; the defaults are CLIP's beside ViT-B.

    Args:
      vocab_size, length: the tokenizer's; supplied by the caller.
      hidden_dim: width D.
      depth: number of blocks.
      num_heads: attention heads; they divide `hidden_dim`.
      mlp_dim: hidden width of the MLPs; 4 D when None.
      causal: each token sees itself and those before it, as in CLIP; otherwise all (SigLIP).
      pool: "last" takes the last real token, the end of text; "mean" averages the real tokens.
      activation, epsilon: of the blocks.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype.
    """
    if hidden_dim % num_heads:
        raise ConfigError(f"Text tower: hidden_dim = {hidden_dim} does not divide into num_heads = {num_heads}.")
    return TextTransformer(
        vocab_size, length, hidden_dim, depth, num_heads, mlp_dim, causal, pool, activation, epsilon, remat, dtype
    )
