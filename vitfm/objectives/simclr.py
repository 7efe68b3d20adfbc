"""SimCLR: contrastive learning of visual representations (Chen et al. 2020, arXiv:2002.05709; v2, arXiv:2006.10029)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import diagnostics, instance
from vitfm.models import heads, probes, statistics, views
from vitfm.models.two_towers import unit
from vitfm.objectives import base


def make(
    *,
    model: Mapping[str, Any],
    hidden_dim: int = 2048,
    out_dim: int = 128,
    head_layers: int = 2,
    head_norm: bool = True,
    temperature: float = 0.1,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Each view of an image finds the other one among all views of the global batch.

    A batch holds `views` = {"global": [B,2,H,W,C]}. Batch norm, in a ResNet and in the head, takes the statistics of
    all 2B views at once, as the authors' code does; lightly's examples take those of each view. The head stands in
    `couple`, after all micro-batches are encoded, so accumulation is exact with its batch norm, too. Where the encoder
    has batch norm of its own there is none, and `extra` holds its running statistics.

    Args:
      model: the encoder: a `vitfm.models` name and its options.
      hidden_dim, out_dim: widths of the projection head, which is dropped after training.
      head_layers: its linear maps: 2 in v1, 3 in v2, whose hidden layers are as wide as the encoder's output.
      head_norm: batch norm behind each of them, the last without a bias, as in the authors' code.
      temperature: of the softmax over cosines.
      data: facts about the batches: `image_size`.
      dtype: compute dtype.

    Raises:
      ConfigError: a temperature or number of layers that is none; views that are not two.
    """
    if temperature <= 0:
        raise ConfigError(f"config.objective.temperature = {temperature} must be above 0.")
    if head_layers < 1:
        raise ConfigError(f"config.objective.head_layers = {head_layers} must be at least 1.")
    tower = models.make({"name": "vit", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype)
    head = heads.Projection(hidden_dim, out_dim, head_layers, head_norm, "scale" if head_norm else None, dtype=dtype)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key)
        encoder = tower.init(keys[0], views.pair(batch)[:1, 0])
        projection = head.init(keys[1], jnp.zeros((2, tower.hidden_dim)))["params"]
        return base.Variables({"encoder": encoder["params"], "head": projection}, statistics.start(encoder))

    def encode(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array
    ) -> tuple[jax.Array, base.Extra]:
        return views.encoded(tower, params["encoder"], extra, views.pair(batch), key)

    def couple(
        params: base.Params, extra: base.Extra, features: jax.Array, batch: base.Batch, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        projected = head.apply({"params": params["head"]}, features.reshape(-1, features.shape[-1]))
        rows = unit(projected).reshape(*features.shape[:2], -1)
        value, accuracy = instance.nt_xent(rows, temperature)
        metrics = {"accuracy": accuracy, **diagnostics.of_views(features, rows[:, 0], rows[:, 1])}
        return value, base.Aux(metrics)

    return base.coupled_encodings(tower, init, encode, couple, probes.predictions(tower), healthy=diagnostics.VIEWS)
