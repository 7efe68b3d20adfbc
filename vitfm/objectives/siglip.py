"""SigLIP: image-text pretraining with a sigmoid for each pair (Zhai et al. 2023, arXiv:2303.15343).

SigLiT is this with an image tower that a checkpoint gave and that stays as it is, see configs/lit.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitfm.losses import contrastive, diagnostics
from vitfm.models import two_towers
from vitfm.objectives import base

# What the towers are where a recipe does not say: queries that attend to the patches; texts without a causal mask,
# padding among what is seen, read at the last position.
IMAGE: Mapping[str, Any] = {"name": "vit", "pool": "map"}
TEXT: Mapping[str, Any] = {"name": "text", "causal": False, "see_padding": True, "pool": "final"}


def completed(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A tower with its defaults, where it is the module that they are for."""
    return {**defaults, **spec} if spec.get("name", defaults["name"]) == defaults["name"] else dict(spec)


def make(
    *,
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    embed_dim: int | None = None,
    initial_scale: float = 10.0,
    initial_bias: float = -10.0,
    mask_same_concept: bool = True,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Sigmoid loss over all pairs of the global batch of `image` [B,H,W,C], `text` [B,T] and `text_mask` [B,T].

    Args:
      image: the image tower: a `vitfm.models` name and its options; without a name a ViT, and a ViT pools by "map".
      text: the text tower likewise, see `TEXT`; its vocabulary and length come from the tokenizer.
      embed_dim: width of the joint space, into which both towers are projected. None, as published, takes that of the
        image tower; the text tower ends in a linear map to it.
      initial_scale: the factor on the cosines at the start; its logarithm is learned, and unlike CLIP's not clamped.
      initial_bias: added to all of them at the start; of B pairs of an image B - 1 are negatives, and at first nearly
        all of the loss would be theirs (section 3.2).
      mask_same_concept: pairs with equal `concept` [B] are left out, see `vitfm.objectives.clip`.
      data: facts about the batches: `image_size`, `vocab_size`, `text_length`.
      dtype: compute dtype.
    """
    towers = two_towers.towers(completed(image, IMAGE), completed(text, TEXT), embed_dim, data, dtype)
    return of(towers, initial_scale, initial_bias, mask_same_concept)


def of(
    towers: two_towers.TwoTowers, initial_scale: float, initial_bias: float, mask_same_concept: bool
) -> base.Objective:
    """The objective of such towers; see `make`."""

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        start = {"logit_scale": math.log(initial_scale), "logit_bias": initial_bias}
        scalars = {name: jnp.asarray(value, jnp.float32) for name, value in start.items()}
        return base.Variables({**towers.init(key, batch), **scalars})

    def couple(
        params: base.Params, extra: base.Extra, embeddings: dict[str, jax.Array], batch: base.Batch, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        scale, bias = jnp.exp(params["logit_scale"]), params["logit_bias"]
        concept = batch.get("concept") if mask_same_concept else None
        value, metrics = contrastive.sigmoid_contrastive(embeddings["image"], embeddings["text"], scale, bias, concept)
        return value, base.Aux({**metrics, "logit_scale": scale, "logit_bias": bias})

    return base.coupled(init, towers.embed, couple, towers.predictions(), healthy=diagnostics.PAIRS)
