"""CLIP: contrastive pretraining of an image and a text tower (Radford et al. 2021, arXiv:2103.00020).

LiT (Zhai et al. 2022, arXiv:2111.07991) is this with an image tower that a checkpoint gave and that stays as it is:
`config.init` and `config.optim.freeze`, see configs/lit.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vitfm.losses import contrastive, diagnostics
from vitfm.models import two_towers
from vitfm.objectives import base


def make(
    *,
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    embed_dim: int | None = 512,
    initial_scale: float = 1 / 0.07,
    max_scale: float = 100.0,
    clamped: Literal["parameter", "loss"] = "parameter",
    mask_same_concept: bool = True,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Softmax contrastive loss over the global batch of `image` [B,H,W,C], `text` [B,T] and `text_mask` [B,T].

    Args:
      image: the image tower: a `vitfm.models` name and its options.
      text: the text tower likewise; its vocabulary and length come from the tokenizer.
      embed_dim: width of the joint space; None takes that of the image tower, which is then not projected.
      initial_scale: the factor on the cosines at the start; its logarithm is learned.
      max_scale: the factor is at most this.
      clamped: what holds it there: the learned logarithm itself, after every step, or, as in AIMv2, only what the loss
        makes of it, where it is also at least 1; a logarithm beyond these has no gradient then.
      mask_same_concept: pairs with equal `concept` [B] are no negatives of each other. A mask in the loss rather than
        a sampler that keeps them apart: it holds for any order, any number of hosts and any accumulation, and
        the order of the data stays a plain shuffle. Without a `concept` in the batch it changes nothing.
      data: facts about the batches: `image_size`, `vocab_size`, `text_length`.
      dtype: compute dtype.
    """
    towers = two_towers.towers(image, text, embed_dim, data, dtype)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        return base.Variables(
            {**towers.init(key, batch), "logit_scale": jnp.asarray(math.log(initial_scale), jnp.float32)}
        )

    def couple(
        params: base.Params, extra: base.Extra, embeddings: dict[str, jax.Array], batch: base.Batch, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        logarithm = params["logit_scale"]
        scale = jnp.exp(jnp.clip(logarithm, 0.0, math.log(max_scale)) if clamped == "loss" else logarithm)
        concept = batch.get("concept") if mask_same_concept else None
        value, metrics = contrastive.softmax_contrastive(embeddings["image"], embeddings["text"], scale, concept)
        return value, base.Aux({**metrics, "logit_scale": scale})

    def constrain(params: base.Params) -> base.Params:
        if clamped == "loss":
            return params
        return {**params, "logit_scale": jnp.minimum(params["logit_scale"], math.log(max_scale))}

    offered = {"constrain": constrain, "healthy": diagnostics.PAIRS}
    return base.coupled(init, towers.embed, couple, towers.predictions(), **offered)
