"""A decoder that writes captions by an image's tokens alone: LocCa's (Wan et al. 2024, arXiv:2403.19596), CapPa's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm import config
from vitfm.models import captioner as captioners
from vitfm.models import generation as generations
from vitfm.models import masking
from vitfm.models.captioner import Captioner, Past
from vitfm.models.text import TextTransformer


class CaptionDecoder(nn.Module):
    """Token ids [B, T] and an image's tokens [B, M, C] -> float32 logits [B, T, K] of the token after each one.

    Attributes:
      vocab_size: K.
      length: T, tokens of a text.
      width: D.
      captioner: the blocks, and what reads logits from them.
      parallel: it also writes all tokens of a text at once, from as many mask tokens (CapPa, Tschannen et al. 2023,
        arXiv:2306.07915, section 3).
      dtype: compute dtype; parameters are float32.
    """

    vocab_size: int
    length: int
    width: int
    captioner: Captioner
    parallel: bool
    dtype: jnp.dtype

    def setup(self) -> None:
        normal = nn.initializers.normal
        self.embedding = self.param("embedding", normal(0.02), (self.vocab_size, self.width))
        self.position = self.param("position", normal(0.01), (self.length, self.width))
        if self.parallel:
            self.mask_token = self.param("mask_token", normal(0.02), (self.width,))

    def __call__(self, text: jax.Array, context: jax.Array, parallel: jax.Array | None = None) -> jax.Array:
        """Where `parallel`, bool [B], no token of the text is seen: mask tokens stand for all, and see each other."""
        x = jnp.take(self.embedding, text, axis=0)
        x = x if parallel is None else jnp.where(parallel[:, None, None], self.mask_token, x)
        return self.captioner((x + self.position[: text.shape[1]]).astype(self.dtype), context, parallel)

    def look(self, context: jax.Array) -> Past:
        """What is seen of an image's tokens [B, M, C], for `step`."""
        return self.captioner.look(context)

    def step(self, token: jax.Array, past: Past, position: jax.Array, seen: Past) -> tuple[jax.Array, Past]:
        """`token` [B] at `position` [B] -> float32 logits [B, K] of the next one, and what is now past."""
        x = jnp.take(self.embedding, token, axis=0) + jnp.take(self.position, position, axis=0)
        return self.captioner.step(x[:, None].astype(self.dtype), past, position, seen)


def beside(text: TextTransformer, options: Mapping[str, Any], *, parallel: bool, dtype: jnp.dtype) -> CaptionDecoder:
    """As wide as a text tower, and with half of its blocks where `options` of `captioner.make` do not say otherwise."""
    same = {name: getattr(text, name) for name in ("num_heads", "mlp_dim", "activation", "epsilon")}
    options = {**same, "depth": max(1, text.depth // 2), **options}
    given = {"vocab_size": text.vocab_size, "hidden_dim": text.width, "dtype": dtype}
    blocks = config.call(captioners.make, options, where="objective.captioner", **given)
    return CaptionDecoder(text.vocab_size, text.length, text.width, blocks, parallel, dtype)


def writing(
    decoder: CaptionDecoder, options: Mapping[str, Any], data: Any
) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    """(its parameters, images' tokens [B,M,C]) -> token ids [B,T] as the tokenizer has them: beginning, text, end.

    Args:
      decoder: that writes.
      options: `name` ("greedy", "beam" or "nucleus") and options, see `vitfm.models.generation`.
      data: facts about the batches: the tokenizer's special tokens, and T.

    Raises:
      ConfigError: texts have no beginning token to start from.
    """
    if data.bos_id is None:
        raise config.ConfigError(
            "config.data.tokenizer: captions start from a beginning token, and this tokenizer has none."
        )
    form = generations.Form(data.bos_id, data.eos_id, data.pad_id, data.text_length)
    generate = generations.make(**{"name": "greedy", **options}, form=form)

    def write(params: Mapping[str, Any], context: jax.Array) -> jax.Array:
        def next(seen: Any, cache: dict[str, Any], token: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
            at = cache["position"]
            logits, past = decoder.apply({"params": params}, token, cache["past"], at, seen, method="step")
            return logits, {"past": past, "position": at + 1}

        seen, count = decoder.apply({"params": params}, context, method="look"), len(context)
        past = decoder.captioner.transformer.empty(count, decoder.length)
        return generate(next, seen, {"past": past, "position": jnp.zeros(count, jnp.int32)}, masking.row_keys(count))

    return write
