"""Gram anchoring: patches stay as alike, and as unlike, as they were to an earlier teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitfm.config import ConfigError

Params = Mapping[str, Any]


def gram(patches: jax.Array, anchor: jax.Array) -> jax.Array:
    """The mean squared difference of the cosines between the patches of each image.

    Siméoni et al. 2025 (DINOv3, arXiv:2508.10104), section 4.2. The paper writes a squared Frobenius norm, the authors'
    code takes its mean over images and pairs, which `gram_weight` is meant for.

    Args:
      patches: [..., N, D], the student's.
      anchor: [..., N, E], the earlier teacher's.

    Returns:
      The loss [], float32.
    """
    return jnp.square(_cosines(patches) - _cosines(anchor)).mean()


def _cosines(patches: jax.Array) -> jax.Array:
    """[..., N, D] -> [..., N, N]."""
    x = patches.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))
    return jnp.einsum("...nd,...md->...nm", x, x, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Anchoring:
    """When the earlier teacher, `extra["gram"]`, becomes the teacher; see `gram_...` of `vitfm.objectives.dinov2`.

    Attributes:
      start: the step from which the loss counts.
      first: the step whose teacher it is at first, from 0 to `start`.
      every: so many steps after `start`, and again, it becomes the teacher of then; None never.
      updates: how often it does at most; None without end.

    Raises:
      ConfigError: steps that are none.
    """

    start: int
    first: int
    every: int | None
    updates: int | None

    def __post_init__(self) -> None:
        start, first, every, updates = dataclasses.astuple(self)
        if not 0 <= first <= start or min(number for number in (every, updates, 1) if number is not None) < 1:
            raise ConfigError(
                f"config.objective: gram_from = {first} is a step from 0 to gram_start = {start}, gram_every = {every} "
                f"and gram_updates = {updates} are from 1 up."
            )

    def of(self, teacher: Params) -> Params:
        return {"gram": jax.tree.map(jnp.copy, teacher["encoder"])}

    def following(self, course: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
        """`course` of the teacher, and of this one after it."""

        def after_update(params: Params, extra: Params, step: jax.Array) -> Params:
            extra, done = course["after_update"](params, extra, step), step + 1
            now = done == self.first
            if self.every is not None:
                times = (done - self.start) // self.every
                again = (times >= 1) & ((done - self.start) % self.every == 0)
                now |= again if self.updates is None else again & (times <= self.updates)
            kept = lambda old, new: jnp.where(now, new, old)
            return {**extra, "gram": jax.tree.map(kept, extra["gram"], extra["teacher"]["encoder"])}

        def started(params: Params, extra: Params) -> Params:
            extra = course["started"](params, extra)
            return {**extra, **self.of(extra["teacher"])}

        return {**course, "after_update": after_update, "started": started}
