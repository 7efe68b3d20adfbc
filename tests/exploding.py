"""A CLIP whose image tower overflows at one step: `objective.name = "tests.exploding"`, with `at`, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vitfm.objectives import base, clip


def make(*, at: int | None, data: Any, dtype: Any, embed_dim: int, image: dict, text: dict) -> base.Objective:
    """CLIP, but for a NaN in the gradient of the text projection of the step after `at`; None for none."""
    plain = clip.make(image=image, text=text, embed_dim=embed_dim, data=data, dtype=dtype)

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        value, aux = plain.loss(params, extra, batch, key, step)
        kernel = params["text"]["projection"]["kernel"]
        # sqrt has no slope at 0: the value is 0 and the gradient is NaN, and both only at that step.
        broken = jnp.sqrt(jnp.where(step == (-1 if at is None else at), kernel - kernel, 1.0)).sum()
        return value + broken - jax.lax.stop_gradient(broken), aux

    return dataclasses.replace(plain, loss=loss, accumulate="mean")
