"""A CLIP with a metric of features that are all alike: `objective.name = "tests.collapsed"`, for tests."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from vitfm.losses import diagnostics
from vitfm.objectives import base, clip


def make(*, data: Any, dtype: Any, embed_dim: int, image: dict, text: dict) -> base.Objective:
    """`clip`, with the diagnostics of features that are one vector for every image."""
    inner = clip.make(image=image, text=text, embed_dim=embed_dim, data=data, dtype=dtype)

    def couple(*given: Any) -> tuple[Any, base.Aux]:
        value, aux = inner.couple(*given)
        rank = diagnostics.effective_rank(jnp.ones((8, 4)))
        return value, aux.replace(metrics={**aux.metrics, "effective_rank": rank, "uniformity": jnp.float32(-2.0)})

    offered = {"constrain": inner.constrain, "healthy": diagnostics.VIEWS}
    return base.coupled(inner.init, inner.embed, couple, inner.predict, **offered)
