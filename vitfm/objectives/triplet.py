"""FaceNet: distances say who is who (Schroff et al. 2015, arXiv:1503.03832)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import diagnostics
from vitfm.losses.triplet import Mining, triplet
from vitfm.models import heads, probes, statistics
from vitfm.models.two_towers import unit
from vitfm.objectives import base


def make(
    *,
    model: Mapping[str, Any],
    embed_dim: int = 128,
    margin: float = 0.2,
    mining: Mining = "semi-hard",
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """A triplet loss on unit vectors of `image` [B,H,W,C] with `label` int [B], mined in the global batch.

    A batch needs several images of a class: `config.data.balance` sees to it. `embed_image` is the unit vector [B,E]
    that distances are meant for; `features` are the encoder's. With an encoder that has batch normalisation, `extra`
    holds its running statistics, and nothing is accumulated.

    Args:
      model: the encoder: a `vitfm.models` name and its options.
      embed_dim: E.
      margin: by how much a negative's squared distance has to exceed a positive's.
      mining: "semi-hard", "hard" or "all" triplets, see `vitfm.losses.triplet`.
      data: facts about the batches: `image_size`, `num_classes`, `multi_label`.
      dtype: compute dtype.

    Raises:
      ConfigError: the data has no labels, or several an image; no margin.
    """
    if not data.num_classes or data.multi_label:
        raise ConfigError(
            "Triplets are made of images of one class and another: config.data.label has to give each image one class."
        )
    if margin <= 0:
        raise ConfigError(f"config.objective.margin = {margin} must be above 0.")
    tower = models.make({"name": "vit", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype)
    head = heads.Projection(0, embed_dim, 1, False, dtype=dtype)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key)
        encoder = tower.init(keys[0], batch["image"][:1])
        mapped = head.init(keys[1], jnp.zeros((1, tower.hidden_dim)))
        return base.Variables({"encoder": encoder["params"], "head": mapped["params"]}, statistics.start(encoder))

    def encode(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array
    ) -> tuple[jax.Array, base.Extra]:
        features, changed = statistics.train(tower, params["encoder"], extra, batch["image"], key)
        return features.pooled, changed

    def embedded(params: base.Params, pooled: jax.Array) -> jax.Array:
        """[B,D] -> unit vectors [B,E]."""
        return unit(head.apply({"params": params["head"]}, pooled))

    def couple(
        params: base.Params, extra: base.Extra, pooled: jax.Array, batch: base.Batch, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        if batch["label"].ndim != 1:
            raise ConfigError("config.data.mix leaves no image of one class: triplets can't be made of mixed images.")
        rows = embedded(params, pooled)
        value, violated = triplet(rows, batch["label"], margin, mining)
        return value, base.Aux({"violated": violated, **diagnostics.of_classes(pooled, rows, batch["label"])})

    of_tower = probes.predictions(tower)
    embed_image = lambda params, image: embedded(params, of_tower["embed_image"](params, image))
    predict = {**of_tower, "embed_image": embed_image}
    return base.coupled_encodings(tower, init, encode, couple, predict, healthy=diagnostics.VIEWS)
