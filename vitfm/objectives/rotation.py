"""RotNet: which way up is this image? (Gidaris et al. 2018, arXiv:1803.07728)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.losses import classification, diagnostics
from vitfm.models import heads, probes, statistics, views
from vitfm.objectives import base

TURNS = 4


def make(*, model: Mapping[str, Any], data: Any, dtype: jnp.dtype = jnp.float32) -> base.Objective:
    """Four-way cross-entropy: `image` [B,H,H,C] is turned by 0, 90, 180 and 270 degrees, and each turn is recognised.

    All four turns of every image are in one batch of 4B (section 3.2: better than one drawn turn of each), batch norm
    sees them together. They are turned after augmentation, so that they differ in nothing else. With an encoder
    that has batch norm, `extra` holds its running statistics, and nothing is accumulated.

    Args:
      model: the encoder: a `vitfm.models` name and its options.
      data: facts about the batches: `image_size`.
      dtype: compute dtype.
    """
    tower = models.make({"name": "vit", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype)
    head = heads.Linear(TURNS, "fan_in", dtype=dtype)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key)
        encoder = tower.init(keys[0], batch["image"][:1])
        scores = head.init(keys[1], jnp.zeros((1, tower.hidden_dim)))
        return base.Variables({"encoder": encoder["params"], "head": scores["params"]}, statistics.start(encoder))

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        features, changed = views.encoded(tower, params["encoder"], extra, turned(batch["image"]), key)
        rows = features.reshape(-1, features.shape[-1])
        scores = head.apply({"params": params["head"]}, rows)
        label = jnp.tile(jnp.arange(TURNS), len(features))
        value = classification.softmax(scores, classification.targets(label, TURNS)).mean()
        metrics = {
            "accuracy": classification.hits(scores, label).mean(),
            "effective_rank": diagnostics.effective_rank(features),
        }
        return value, base.Aux(metrics, changed)

    return base.Objective(init, loss, probes.predictions(tower), healthy=diagnostics.RANK, **statistics.terms(tower))


def turned(images: jax.Array) -> jax.Array:
    """[B,H,H,C] -> [B,4,H,H,C]: turned counterclockwise by 0, 90, 180 and 270 degrees."""
    return jnp.stack([jnp.rot90(images, turns, axes=(1, 2)) for turns in range(TURNS)], axis=1)
