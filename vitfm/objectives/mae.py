"""MAE: masked autoencoders (He et al. 2022, arXiv:2111.06377)."""

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
from vitfm.objectives import base


def make(
    *,
    model: Mapping[str, Any] = {},
    decoder: Mapping[str, Any] = {},
    mask_ratio: float = 0.75,
    norm_pix: bool = True,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Reconstruction of masked patches of `image` [B,H,W,C] by an encoder that sees the others only.

    Args:
      model: the encoder: a `vitfm.models` name and its options; by default a ViT-B/16 with a class token and fixed
        sin-cos positions.
      decoder: options of `vitfm.models.mae_decoder`.
      mask_ratio: share of the patches that are masked; what is left is rounded down, as in the paper's code.
      norm_pix: predict pixels normalised by the mean and deviation of their patch (table 1d).
      data: facts about the batches: `image_size`, `channels`.
      dtype: compute dtype.

    Raises:
      ConfigError: the ratio hides every patch or none.
    """
    defaults = {"name": "vit", "image_size": data.image_size, "position": "sincos", "pool": "cls"}
    encoder = models.make({**defaults, **model}, where="objective.model", dtype=dtype)
    base.refuse_patch_dropout(encoder)
    decoder = models.make(
        {"name": "mae_decoder", **decoder},
        where="objective.decoder",
        outputs=encoder.patch_size**2 * data.channels,
        dtype=dtype,
    )
    autoencoder = Autoencoder(encoder, decoder, mask_ratio, norm_pix)
    count = (data.image_size // encoder.patch_size) ** 2
    if not 0 < autoencoder.visible(count) < count:
        raise ConfigError(
            f"config.objective.mask_ratio = {mask_ratio} leaves {autoencoder.visible(count)} of {count} patches; some "
            "must be seen and some hidden."
        )

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        return base.Variables(autoencoder.init(key, batch["image"][:1]))

    def drawn(image: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Noise [B,N] that decides what is masked, and keys for drop path."""
        for_masks, for_drop_path = jax.vmap(jax.random.split, out_axes=1)(key)
        return masking.noise(for_masks, autoencoder.count(image)), for_drop_path

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        value, metrics = autoencoder.loss(params, batch["image"], *drawn(batch["image"], key))
        return value, base.Aux(metrics)

    def masks(batch: base.Batch, key: jax.Array) -> dict[str, jax.Array]:
        image = batch["image"]
        hidden = masking.hidden(drawn(image, key)[0], autoencoder.visible(autoencoder.count(image)))
        return {"image": hidden.reshape(len(image), image.shape[1] // encoder.patch_size, -1)}

    def reconstruct(params: base.Params, image: jax.Array) -> jax.Array:
        """[B,3,H,W,C]; row i of any batch has the same mask."""
        masks = masking.noise(masking.row_keys(len(image)), autoencoder.count(image))
        return autoencoder.reconstruct(params, image, masks)

    predict = {**probes.predictions(encoder), "reconstruct": reconstruct}
    # Exact: every example hides as many patches.
    return base.Objective(init, loss, predict, accumulate="mean", healthy=diagnostics.RANK, masks=masks)


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Functions of parameters {"encoder", "decoder"}, images [B,H,W,C] and noise [B,N] that decides what is masked.

    Attributes:
      encoder: from `vitfm.models`, taking `keep`.
      decoder: from `vitfm.models.mae_decoder`.
      mask_ratio, norm_pix: see `make`.
    """

    encoder: nn.Module
    decoder: nn.Module
    mask_ratio: float
    norm_pix: bool

    def count(self, image: jax.Array) -> int:
        """Patches in an image."""
        return (image.shape[1] // self.encoder.patch_size) * (image.shape[2] // self.encoder.patch_size)

    def visible(self, count: int) -> int:
        """How many of `count` patches the encoder sees."""
        return masking.visible(count, self.mask_ratio)

    def init(self, key: jax.Array, image: jax.Array) -> base.Params:
        keys = jax.random.split(key, 2)
        keep, hidden = self._masking(jnp.zeros((len(image), self.count(image))))
        encoder = self.encoder.init(keys[0], image, keep)["params"]
        features = self.encoder.apply({"params": encoder}, image, keep)
        decoder = self.decoder.init(keys[1], features.tokens, keep, hidden, features.grid)["params"]
        return {"encoder": encoder, "decoder": decoder}

    def loss(
        self, params: base.Params, image: jax.Array, noise: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Squared error of the masked patches, [], and the rank of the visible ones; `keys` [B] are for drop path."""
        predicted, hidden, features = self._predict(params, image, noise, keys)
        value = reconstruction.pixel_loss(predicted, _rows(self._pixels(image), hidden), self.norm_pix)
        return value, {"effective_rank": diagnostics.effective_rank(features.mean(features.tokens))}

    def reconstruct(self, params: base.Params, image: jax.Array, noise: jax.Array) -> jax.Array:
        """[B,3,H,W,C]: the image; the visible patches, the others 0, the mean colour; these filled with predictions."""
        predicted, hidden, _ = self._predict(params, image, noise, None)
        pixels, predicted = self._pixels(image), predicted.astype(jnp.float32)
        if self.norm_pix:  # What the model can't know: mean and deviation are the true patch's.
            mean, deviation = reconstruction.statistics(_rows(pixels, hidden))
            predicted = predicted * deviation + mean
        example = jnp.arange(len(image))[:, None]
        masked, filled = (pixels.at[example, hidden].set(patches) for patches in (0.0, predicted))
        shown = (stem.assembled(x, image.shape, self.encoder.patch_size) for x in (masked, filled))
        return jnp.stack([image, *shown], 1)

    def _predict(
        self, params: base.Params, image: jax.Array, noise: jax.Array, keys: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, models.Features]:
        """The hidden patches as the decoder sees them [B,M,P], which they are, int [B,M], and what it sees them by."""
        keep, hidden = self._masking(noise)
        features = self.encoder.apply({"params": params["encoder"]}, image, keep, keys)
        decoded = self.decoder.apply({"params": params["decoder"]}, features.tokens, keep, hidden, features.grid)
        return decoded, hidden, features

    def _masking(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return masking.split(noise, self.visible(noise.shape[1]))

    def _pixels(self, image: jax.Array) -> jax.Array:
        """[B, N, P], the patches in row-major order."""
        patches = stem.patches(image, self.encoder.patch_size)
        return patches.reshape(len(image), -1, patches.shape[-1])


def _rows(x: jax.Array, ids: jax.Array) -> jax.Array:
    """x [B,N,P] at ids [B,M] -> [B,M,P]."""
    return jnp.take_along_axis(x, ids[..., None], axis=1)
