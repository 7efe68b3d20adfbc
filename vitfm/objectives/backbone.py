"""An encoder alone, as it was imported: it predicts, and other objectives start from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.models import probes, statistics
from vitfm.objectives import base


def make(*, model: Mapping[str, Any], dtype: jnp.dtype = jnp.float32) -> base.Objective:
    """The predict functions of an encoder, and no loss: nothing here could be learned.

    Args:
      model: the encoder: a `vitfm.models` name and its options.
      dtype: compute dtype.
    """
    tower = models.make(model, where="objective.model", dtype=dtype)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        encoder = tower.init(key, jax.tree.map(lambda x: x[:1], batch["image"]))
        return base.Variables({"encoder": encoder["params"]}, statistics.start(encoder))

    def loss(params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array) -> NoReturn:
        raise ConfigError(
            "config.objective.name = 'backbone' has no loss. To train this encoder, give it an objective (supervised, "
            "clip, dino, mae, ...) with this `model`, and config.init.run = its directory."
        )

    return base.Objective(init, loss, probes.predictions(tower), **statistics.terms(tower))
