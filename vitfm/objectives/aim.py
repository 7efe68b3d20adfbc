"""AIM: each patch from those before it (El-Nouby et al. 2024, arXiv:2401.08541)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import diagnostics, reconstruction
from vitfm.models import masking, probes, stem
from vitfm.models.vision_transformer import ViT
from vitfm.objectives import base

# What AIM's encoders are where a recipe does not say otherwise (section 4, and the authors' released models).
PLAIN = {"position": "sincos", "stem_norm": True, "qkv_bias": "", "out_bias": False, "mlp_bias": False}
_PATCHES = {f"encoder/{part}": f"encoder/{part}" for part in ("stem", "position", "transformer")}  # No special token's.


def make(
    *,
    model: Mapping[str, Any] = {},
    head: Mapping[str, Any] = {},
    norm_pix: bool = True,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Regression of each next patch of `image` [B,H,W,C] in raster order, from a prefix and the patches before it.

    The prefix of each example is of random length; its patches see each other and are not predicted (section 4), so
    that attention may be bidirectional afterwards, which it is in all that `predict` offers.

    Args:
      model: the encoder: a "vit" and its options; by default a ViT-B/16 as AIM's are: fixed sin-cos positions, a norm
        after the stem, no class token, and no biases in the blocks' linear maps.
      head: options of `vitfm.models.aim_head`.
      norm_pix: predict pixels normalised by the mean and deviation of their patch.
      data: facts about the batches: `image_size`, `channels`.
      dtype: compute dtype.

    Raises:
      ConfigError: the encoder has special tokens, mixes or drops patches or is no "vit", or there is no next patch.
    """
    defaults = {"name": "vit", "image_size": data.image_size, **(PLAIN if model.get("name", "vit") == "vit" else {})}
    encoder = models.make({**defaults, **model}, where="objective.model", dtype=dtype)
    _check(encoder, data.image_size)
    head = models.make(
        {"name": "aim_head", **head},
        where="objective.head",
        outputs=encoder.patch_size**2 * data.channels,
        dtype=dtype,
    )
    predictor = Predictor(encoder, head, norm_pix)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        return base.Variables(predictor.init(key, batch["image"][:1]))

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        for_prefixes, for_encoder = jax.vmap(jax.random.split, out_axes=1)(key)
        prefix = prefixes(for_prefixes, predictor.count(batch["image"]))
        value, metrics = predictor.loss(params, batch["image"], prefix, for_encoder)
        return value, base.Aux(metrics)

    def reconstruct(params: base.Params, image: jax.Array) -> jax.Array:
        """[B,3,H,W,C]; row i of any batch has the same prefix."""
        prefix = prefixes(masking.row_keys(len(image)), predictor.count(image))
        return predictor.reconstruct(params, image, prefix)

    predict = {**probes.predictions(encoder), "reconstruct": reconstruct}
    # Exact: a sum over examples.
    return base.Objective(init, loss, predict, accumulate="mean", healthy=diagnostics.RANK)


def _check(encoder: nn.Module, image_size: int) -> None:
    """Refuses encoders in which a patch may not come after another."""
    if not isinstance(encoder, ViT):
        raise ConfigError("config.objective.model.name: who sees whom can be said to a 'vit' only.")
    if isinstance(encoder.stem, stem.ConvStem):
        raise ConfigError(
            "config.objective.model.stem = 'conv' mixes a patch with the next one, which AIM predicts: take 'patch', "
            "'patch_conv' or 'hmlp'."
        )
    base.refuse_patch_dropout(encoder)
    special = encoder.class_token or encoder.distillation_token or encoder.registers
    if special or encoder.pool != "gap":
        raise ConfigError(
            "config.objective.model: AIM's sequence is all patches of an image and nothing else, and no loss trains a "
            "pooling: pool must be 'gap', without class_token, distillation_token and registers. Of weights that have "
            f"some, config.init.take = {_PATCHES} takes the others."
        )
    if image_size < 2 * encoder.patch_size:
        raise ConfigError(
            f"config.objective.model.patch_size = {encoder.patch_size} leaves no next patch in images of "
            f"{image_size} pixels: it must be half as large, or smaller."
        )


def prefixes(keys: jax.Array, count: int) -> jax.Array:
    """Lengths int [B], each of 1, ..., count - 1 alike probable, of example i by keys [B] i alone (section 4)."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, count))(keys)


def visible(prefix: jax.Array, count: int) -> jax.Array:
    """Which patches each one sees, bool [B, N, N]: itself, those before it, and the prefix [B]."""
    patch = jnp.arange(count)
    return (patch <= patch[:, None]) | (patch < prefix[:, None, None])


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Functions of parameters {"encoder", "head"}, images [B,H,W,C] and the lengths of their prefixes, int [B].

    Attributes:
      encoder: from `vitfm.models`, taking `attention_mask`.
      head: from `vitfm.models.aim_head`.
      norm_pix: see `make`.
    """

    encoder: nn.Module
    head: nn.Module
    norm_pix: bool

    def count(self, image: jax.Array) -> int:
        """Patches in an image."""
        return (image.shape[1] // self.encoder.patch_size) * (image.shape[2] // self.encoder.patch_size)

    def init(self, key: jax.Array, image: jax.Array) -> base.Params:
        keys = jax.random.split(key, 2)
        features, encoder = self.encoder.init_with_output(keys[0], image)
        head = self.head.init(keys[1], features.tokens, features.grid)
        return {"encoder": encoder["params"], "head": head["params"]}

    def loss(
        self, params: base.Params, image: jax.Array, prefix: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Squared error of the patches after the prefix, [], and the features' rank; `keys` [B] are for drop path.

        The error is divided by the mean number of such patches, N/2, so that a patch weighs the same in any image and
        no example's weight depends on the others' prefixes.
        """
        features, patches = self._encoded(params, image, prefix, keys), self._patches(image)
        errors = reconstruction.squared_errors(self._decoded(params, features), patches[:, 1:], self.norm_pix)
        count = patches.shape[1]
        value = jnp.where(jnp.arange(1, count) >= prefix[:, None], errors, 0).sum() / (len(image) * count / 2)
        return value, {"effective_rank": diagnostics.effective_rank(features.mean(features.tokens))}

    def reconstruct(self, params: base.Params, image: jax.Array, prefix: jax.Array) -> jax.Array:
        """[B,3,H,W,C]: the image; its prefix, the rest 0, the mean colour; the rest filled with predictions.

        A prediction is of one patch, by the true ones before it.
        """
        patches, size = self._patches(image), self.encoder.patch_size
        predicted = self.predict(params, image, prefix).astype(jnp.float32)
        if self.norm_pix:  # What the model can't know: mean and deviation are the true patch's.
            mean, deviation = reconstruction.statistics(patches[:, 1:])
            predicted = predicted * deviation + mean
        hidden = (jnp.arange(patches.shape[1]) >= prefix[:, None])[..., None]
        filled = jnp.where(hidden, jnp.pad(predicted, ((0, 0), (1, 0), (0, 0))), patches)
        shown = (stem.assembled(x, image.shape, size) for x in (jnp.where(hidden, 0, patches), filled))
        return jnp.stack([image, *shown], 1)

    def predict(
        self, params: base.Params, image: jax.Array, prefix: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Every patch but the first from those that the one before it sees, [B,N-1,P]."""
        return self._decoded(params, self._encoded(params, image, prefix, keys))

    def _encoded(
        self, params: base.Params, image: jax.Array, prefix: jax.Array, keys: jax.Array | None
    ) -> models.Features:
        sees = visible(prefix, self.count(image))
        return self.encoder.apply({"params": params["encoder"]}, image, None, keys, attention_mask=sees)

    def _decoded(self, params: base.Params, features: models.Features) -> jax.Array:
        return self.head.apply({"params": params["head"]}, features.tokens, features.grid)[:, :-1]

    def _patches(self, image: jax.Array) -> jax.Array:
        """[B, N, P], the patches in row-major order."""
        patches = stem.patches(image, self.encoder.patch_size)
        return patches.reshape(len(image), -1, patches.shape[-1])
