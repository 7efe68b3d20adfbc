"""CLIP: contrastive pretraining of an image and a text tower (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.losses import contrastive
from vitfm.models import probes
from vitfm.objectives import base


def _unit(x: jax.Array) -> jax.Array:
    """Rows of L2 norm 1, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def make(
    *,
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    embed_dim: int = 512,
    initial_scale: float = 1 / 0.07,
    max_scale: float = 100.0,
    mask_same_concept: bool = True,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Softmax contrastive loss over the global batch of `image` [B,H,W,C], `text` [B,T] and `text_mask` [B,T].

    Args:
      image: the image tower: a `vitfm.models` name and its options.
      text: the text tower likewise; its vocabulary and length come from the tokenizer.
      embed_dim: width of the joint space.
      initial_scale: the factor on the cosines at the start; its logarithm is learned.
      max_scale: the factor is clamped to this after every step.
      mask_same_concept: pairs with equal `concept` [B] are no negatives of each other. A mask in the loss rather than
        a sampler that keeps them apart: it holds for any order, any number of hosts and any accumulation, and
        the order of the data stays a plain shuffle. Without a `concept` in the batch it changes nothing.
      data: facts about the batches: `image_size`, `vocab_size`, `text_length`.
      dtype: compute dtype.
    """
    image = {"image_size": data.image_size, **image}
    image_tower = models.make(image, where="objective.image", dtype=dtype)
    text_tower = models.make(
        text, where="objective.text", vocab_size=data.vocab_size, length=data.text_length, dtype=dtype
    )
    project = nn.Dense(embed_dim, use_bias=False, dtype=dtype, kernel_init=nn.initializers.lecun_normal())

    def embed_image(params: base.Params, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        features = image_tower.apply({"params": params["image"]["tower"]}, image, keys=keys)
        return _unit(project.apply({"params": params["image"]["projection"]}, features.pooled))

    def embed_text(params: base.Params, text: jax.Array, text_mask: jax.Array) -> jax.Array:
        features = text_tower.apply({"params": params["text"]["tower"]}, text, text_mask)
        return _unit(project.apply({"params": params["text"]["projection"]}, features.pooled))

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key, 4)
        image_params = image_tower.init(keys[0], batch["image"][:1])["params"]
        text_params = text_tower.init(keys[1], batch["text"][:1], batch["text_mask"][:1])["params"]
        return base.Variables(
            {
                "image": {
                    "tower": image_params,
                    "projection": project.init(keys[2], jnp.zeros((1, image_tower.hidden_dim)))["params"],
                },
                "text": {
                    "tower": text_params,
                    "projection": project.init(keys[3], jnp.zeros((1, text_tower.hidden_dim)))["params"],
                },
                "logit_scale": jnp.asarray(math.log(initial_scale), jnp.float32),
            }
        )

    def embed(params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array) -> dict[str, jax.Array]:
        return {
            "image": embed_image(params, batch["image"], key),
            "text": embed_text(params, batch["text"], batch["text_mask"]),
        }

    def couple(
        params: base.Params, extra: base.Extra, embeddings: dict[str, jax.Array], batch: base.Batch, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        scale = jnp.exp(params["logit_scale"])
        concept = batch.get("concept") if mask_same_concept else None
        value, metrics = contrastive.softmax_contrastive(embeddings["image"], embeddings["text"], scale, concept)
        return value, base.Aux({**metrics, "logit_scale": scale})

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        return couple(params, extra, embed(params, extra, batch, key), batch, step)

    def constrain(params: base.Params) -> base.Params:
        return {**params, "logit_scale": jnp.minimum(params["logit_scale"], math.log(max_scale))}

    joint = {"embed_image": embed_image, "embed_text": embed_text}
    return base.Objective(
        init,
        loss,
        predict={**probes.predictions(image_tower, lambda params: params["image"]["tower"]), **joint},
        accumulate="cached",
        constrain=constrain,
        embed=embed,
        couple=couple,
    )
