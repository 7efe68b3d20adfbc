"""Distillation: a small encoder learns the features or logits of a large one (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import classification, diagnostics
from vitfm.losses.distillation import divergence, mismatch
from vitfm.models import heads, probes, statistics
from vitfm.objectives import base

PREDICT = {"pooled": "embed_image", "patches": "patches", "logits": "logits"}  # What is learned, and who tells it.


def make(
    *,
    model: Mapping[str, Any],
    pooled: float = 1.0,
    patches: float = 0.0,
    logits: float = 0.0,
    distance: Literal["cosine", "l2"] = "cosine",
    temperature: float = 1.0,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    teacher: base.Teacher | None = None,
) -> base.Objective:
    """What a frozen teacher says of `image` [B,H,W,C] is found by a smaller encoder; labels are not needed.

    Features are compared after a linear map of the student's to the teacher's width, which deployment drops: the pooled
    output, and the patches, where the teacher's grid is resized to the student's. Logits are those of a linear head
    over the teacher's classes, compared as distributions. The teacher sees the student's augmented images at its own
    size. `extra` holds it and, with an encoder that has batch normalisation, its running statistics; then nothing is
    accumulated.

    Args:
      model: the encoder: a `vitfm.models` name and its options.
      pooled, patches, logits: factors of the terms of the loss; those at 0 are left out.
      distance: of features: "cosine", 1 - cosine, or "l2", the mean over the channels of squared differences.
      temperature: that both sides' logits are divided by.
      data: facts about the batches: `image_size`.
      dtype: compute dtype.
      teacher: any model that predicts what is asked for.

    Raises:
      ConfigError: a factor or temperature that is none, or a teacher that lacks what is asked for.
    """
    factors = {
        name: factor for name, factor in (("pooled", pooled), ("patches", patches), ("logits", logits)) if factor
    }
    if not factors or min(factors.values()) < 0 or temperature <= 0:
        raise ConfigError(
            f"config.objective: pooled = {pooled}, patches = {patches} and logits = {logits} must be at least 0 and "
            f"not all 0, and temperature = {temperature} above 0."
        )
    tower = models.make({"name": "vit", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype)
    if patches:
        base.refuse_patch_dropout(tower)
    linear = lambda width: heads.Projection(0, width, 1, False, dtype=dtype)

    def told(extra: base.Extra, image: jax.Array) -> dict[str, jax.Array]:
        """What the teacher says, by the terms of the loss."""
        return {name: base.taught(teacher).predict(PREDICT[name], extra, image) for name in factors}

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key, 2 + len(factors))
        image = batch["image"][:1]
        encoder = tower.init(keys[0], image)
        extra = {base.FROZEN: base.taught(teacher).init(keys[1]), **statistics.start(encoder)}
        widths = {name: said.shape[-1] for name, said in jax.eval_shape(told, extra, image).items()}
        ours = jnp.zeros((1, tower.hidden_dim))
        maps = {
            name: linear(width).init(key, ours)["params"]
            for (name, width), key in zip(widths.items(), keys[2:], strict=True)
        }
        return base.Variables({"encoder": encoder["params"], "head": maps}, extra)

    def mapped(params: base.Params, name: str, features: jax.Array) -> jax.Array:
        """[..., D] -> [..., width of the teacher's]."""
        its_params = params["head"][name]
        rows = linear(its_params["out"]["kernel"].shape[-1]).apply(
            {"params": its_params}, features.reshape(-1, features.shape[-1])
        )
        return rows.reshape(*features.shape[:-1], -1)

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        said = told(extra, batch["image"])
        features, changed = statistics.train(tower, params["encoder"], extra, batch["image"], key)
        found = {
            name: mapped(params, name, probes.on_grid(features) if name == "patches" else features.pooled)
            for name in factors
        }
        terms, metrics = {}, {"effective_rank": diagnostics.effective_rank(features.pooled)}
        if "pooled" in factors:
            terms["pooled"] = mismatch(said["pooled"], found["pooled"], distance).mean()
        if "patches" in factors:
            same_grid = resized(said["patches"], found["patches"].shape[1:3])
            terms["patches"] = mismatch(same_grid, found["patches"], distance).mean()
        if "logits" in factors:
            terms["logits"] = divergence(said["logits"], found["logits"], temperature).mean()
            metrics["agreement"] = classification.hits(found["logits"], said["logits"].argmax(-1)).mean()
        value = sum(factors[name] * term for name, term in terms.items())
        return value, base.Aux({**metrics, **{f"loss_{name}": term for name, term in terms.items()}}, changed)

    predict = probes.predictions(tower)
    if "logits" in factors:
        predict["logits"] = lambda params, image: mapped(params, "logits", predict["embed_image"](params, image))
    return base.Objective(init, loss, predict, healthy=diagnostics.RANK, **statistics.terms(tower))


def resized(patches: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """[B,h,w,D] on another grid, linearly and with antialiasing."""
    shape = (len(patches), *grid, patches.shape[-1])
    return patches if patches.shape == shape else jax.image.resize(patches, shape, "linear", antialias=True)
