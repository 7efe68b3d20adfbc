"""CoCa's two halves of a text decoder (Yu et al. 2022, arXiv:2205.01917, section 3.2): without and with the image."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.activations import Activation
from vitfm.models.cross_attention import KeysValues
from vitfm.models.decoder import Decoder

Past = tuple[KeysValues, ...]


class TextDecoder(nn.Module):
    """The unimodal half: token ids [B, T] and their mask [B, T] -> Features; see `text_decoder` for the attributes.

    A learned class token stands behind the text and is the only one that sees all of it: `pooled` is what becomes of
    it, `tokens` [B, T, D] what becomes of the others, which the multimodal half goes on with, before the last norm.
    """

    vocab_size: int
    length: int
    transformer: Decoder
    shifted_class_mask: bool
    dtype: jnp.dtype

    @property
    def hidden_dim(self) -> int:
        """Width of the pooled output."""
        return self.transformer.width

    def setup(self) -> None:
        width, normal = self.transformer.width, nn.initializers.normal
        self.embedding = self.param("embedding", normal(0.02), (self.vocab_size, width))
        self.position = self.param("position", normal(0.01), (self.length + 1, width))
        self.class_token = self.param("class_token", normal(0.01), (width,))

    def __call__(self, text: jax.Array, text_mask: jax.Array) -> Features:
        batch, length = text.shape
        if length > self.length:
            raise ValueError(f"text of {length} tokens for a decoder of {self.length}")
        token = jnp.broadcast_to(self.class_token, (batch, 1, self.hidden_dim))
        x = jnp.concatenate([jnp.take(self.embedding, text, axis=0), token], axis=1) + self.position[: length + 1]
        beside = ((0, 0), (1, 0) if self.shifted_class_mask else (0, 1))
        real = jnp.pad(text_mask.astype(bool), beside, constant_values=True)
        mask = jnp.tri(length + 1, dtype=bool)[None] & real[:, None]
        x = self.transformer(x.astype(self.dtype), mask)
        return Features(self.transformer.norm(x[:, -1]), x[:, :-1])

    def step(self, token: jax.Array, past: Past, position: jax.Array) -> tuple[jax.Array, Past]:
        """`token` [B] at `position` [B] -> its row [B, 1, D] of `tokens`, and what is now past."""
        x = jnp.take(self.embedding, token, axis=0) + jnp.take(self.position, position, axis=0)
        return self.transformer.step(x[:, None].astype(self.dtype), past, position)


class Captioner(nn.Module):
    """The multimodal half: tokens [B, T, D] of the unimodal one look at an image's [B, M, C] -> logits [B, T, K]."""

    vocab_size: int
    transformer: Decoder
    dtype: jnp.dtype

    def setup(self) -> None:
        drawn = nn.initializers.lecun_normal()
        self.logits = nn.Dense(self.vocab_size, use_bias=False, dtype=self.dtype, kernel_init=drawn)

    def __call__(self, tokens: jax.Array, context: jax.Array, parallel: jax.Array | None = None) -> jax.Array:
        """float32 [B, T, K], of the token after each one; where `parallel`, bool [B], all tokens see all others."""
        mask = jnp.tri(tokens.shape[1], dtype=bool)[None]
        mask = mask if parallel is None else mask | parallel[:, None, None]
        return self._read(self.transformer(tokens, mask, context))

    def look(self, context: jax.Array) -> Past:
        """What is seen of an image's tokens [B, M, C], for `step`."""
        return self.transformer.look(context)

    def step(self, x: jax.Array, past: Past, position: jax.Array, seen: Past) -> tuple[jax.Array, Past]:
        """A token's [B, 1, D] at `position` [B] -> float32 logits [B, K] of the next one, and what is now past."""
        x, past = self.transformer.step(x, past, position, seen)
        return self._read(x)[:, 0], past

    def _read(self, x: jax.Array) -> jax.Array:
        rows = self.transformer.norm(x).reshape(-1, x.shape[-1])
        return self.logits(rows).reshape(*x.shape[:-1], -1).astype(jnp.float32)


def text_decoder(
    *,
    vocab_size: int,
    length: int,
    hidden_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_dim: int | None = None,
    shifted_class_mask: bool = False,
    activation: Activation = "gelu",
    epsilon: float = 1e-5,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> TextDecoder:
    """The unimodal half; the defaults are CoCa-Base's (table 1).

    Args:
      vocab_size, length: the tokenizer's; supplied by the caller.
      hidden_dim: width D.
      depth: number of blocks.
      num_heads: attention heads; they divide `hidden_dim`.
      mlp_dim: hidden width of the MLPs; 4 D when None.
      shifted_class_mask: the mask of what is no padding, of text and class token, lies one place too far right, as
        open_clip's published weights were trained: the first padding is seen, and of a text without any the class token
        all the same.
      activation, epsilon: of the blocks.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype; parameters are float32.
    """
    _check(hidden_dim, num_heads, "text")
    transformer = Decoder(depth, hidden_dim, num_heads, mlp_dim, activation, epsilon, remat, dtype)
    return TextDecoder(vocab_size, length, transformer, shifted_class_mask, dtype)


def make(
    *,
    vocab_size: int,
    hidden_dim: int,
    depth: int = 12,
    num_heads: int = 12,
    mlp_dim: int | None = None,
    two_mlps: bool = False,
    activation: Activation = "gelu",
    epsilon: float = 1e-5,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> Captioner:
    """The multimodal half; the defaults are CoCa-Base's (table 1).

    Args:
      vocab_size, hidden_dim: of the unimodal half; supplied by the caller.
      two_mlps: an MLP between self- and cross-attention, too, as in open_clip. The published 297M parameters of
        CoCa-Base's decoder are those of blocks with one.
      depth, num_heads, mlp_dim, activation, epsilon, remat, dtype: see `text_decoder`.
    """
    _check(hidden_dim, num_heads, "captioner")
    sizes = (depth, hidden_dim, num_heads, mlp_dim)
    return Captioner(vocab_size, Decoder(*sizes, activation, epsilon, remat, dtype, True, two_mlps), dtype)


def _check(hidden_dim: int, num_heads: int, what: str) -> None:
    if hidden_dim % num_heads:
        raise ConfigError(
            f"config.objective.{what}: hidden_dim = {hidden_dim} does not divide into num_heads = {num_heads}."
        )
