"""Text transformers of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4), SigLIP (arXiv:2303.15343), AIMv2."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.activations import Activation
from vitfm.models.attention import Biases
from vitfm.models.norms import Norm
from vitfm.models.transformer import Remat, Style, Transformer

Pool = Literal["last", "mean", "final"]


class TextTransformer(nn.Module):
    """Token ids [B, T] and their mask [B, T] -> Features; see `make` for the attributes."""

    vocab_size: int
    length: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int | None
    causal: bool
    see_padding: bool
    pool: Pool
    projection_dim: int | None
    activation: Activation
    epsilon: float
    remat: bool | Remat
    dtype: jnp.dtype
    style: Style

    @property
    def hidden_dim(self) -> int:
        """Width of the pooled output."""
        return self.projection_dim or self.width

    @nn.compact
    def __call__(self, text: jax.Array, text_mask: jax.Array) -> Features:
        length = text.shape[1]
        if length > self.length:
            raise ValueError(f"text of {length} tokens for a tower of {self.length}")
        embedding = self.param("embedding", nn.initializers.normal(0.02), (self.vocab_size, self.width))
        position = self.param("position", nn.initializers.normal(0.01), (self.length, self.width))
        x = (jnp.take(embedding, text, axis=0) + position[:length]).astype(self.dtype)
        # Under a causal mask no token sees the padding behind it, so only the other form needs the padding masked.
        mask = None if self.see_padding else text_mask[:, None, :].repeat(length, 1)
        mask = jnp.tri(length, dtype=bool)[None] if self.causal else mask
        tokens, _ = Transformer(
            self.depth,
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.epsilon,
            self.remat,
            self.dtype,
            style=self.style,
            name="transformer",
        )(x, mask)
        if self.pool == "last":
            last = text_mask.sum(1) - 1
            pooled = jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]
        elif self.pool == "final":
            pooled = tokens[:, -1]
        else:
            weight = text_mask.astype(jnp.float32)[..., None]
            pooled = ((tokens * weight).sum(1) / weight.sum(1)).astype(self.dtype)
        if self.projection_dim is not None:
            pooled = nn.Dense(self.projection_dim, dtype=self.dtype, name="projection")(pooled)
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
    see_padding: bool = False,
    pool: Pool = "last",
    projection_dim: int | None = None,
    activation: Activation = "gelu",
    epsilon: float = 1e-5,
    norm: Norm = "layer",
    qkv_bias: Biases = "qkv",
    out_bias: bool = True,
    gated_mlp: bool = False,
    mlp_bias: bool = True,
    remat: bool | Remat = False,
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
      see_padding: without a causal mask, tokens see the padding too (SigLIP).
      pool: "last" takes the last real token, the end of text; "mean" averages the real tokens; "final" takes the last
        token, padding or not (SigLIP).
      projection_dim: width of a linear map of the pooled output, with a bias (SigLIP), or None.
      activation, epsilon: of the blocks.
      norm, qkv_bias, out_bias, gated_mlp, mlp_bias: see `Style`; AIMv2's has "rms", "", False, True and False.
      remat: recompute blocks in the backward pass to save memory, see `Transformer`.
      dtype: compute dtype.
    """
    if hidden_dim % num_heads:
        raise ConfigError(f"Text tower: hidden_dim = {hidden_dim} does not divide into num_heads = {num_heads}.")
    return TextTransformer(
        vocab_size,
        length,
        hidden_dim,
        depth,
        num_heads,
        mlp_dim,
        causal,
        see_padding,
        pool,
        projection_dim,
        activation,
        epsilon,
        remat,
        dtype,
        Style(norm=norm, qkv_bias=qkv_bias, out_bias=out_bias, gated_mlp=gated_mlp, mlp_bias=mlp_bias),
    )
