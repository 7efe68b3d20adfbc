"""SimMIM: masked squares of an image from what is around them (Xie et al. 2022, arXiv:2111.09886)."""

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
from vitfm.models import heads, masking, probes, stem
from vitfm.objectives import base


def make(
    *,
    model: Mapping[str, Any] = {},
    mask_size: int = 32,
    mask_ratio: float = 0.6,
    norm_window: int | None = None,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Regression of the masked pixels of `image` [B,H,W,C]; the encoder sees a mask token in place of their patches.

    Args:
      model: the encoder: a `vitfm.models` name and its options, one that takes `masked`; by default a ViT-B/16.
      mask_size: side in pixels of the squares that are masked (section 3.2); the encoder's patches divide it.
      mask_ratio: share of these squares that are masked; what is left is rounded down, as in the authors' code.
      norm_window: predict pixels normalised by mean and deviation of the square of so many pixels around each, which
        must be odd, as Swin V2 was pretrained; it had 47 of 192 pixels. None for pixels as they are.
      data: facts about the batches: `image_size`, `channels`.
      dtype: compute dtype.

    Raises:
      ConfigError: the encoder masks nothing, sizes do not divide, the ratio hides every square or none, or the window
        has no middle.
    """
    defaults = {"name": "vit", "image_size": data.image_size}
    encoder = models.make({**defaults, "mask_token": True, **model}, where="objective.model", dtype=dtype)
    base.refuse_patch_dropout(encoder)
    head = heads.Pixels(encoder.stride**2 * data.channels, dtype)
    predictor = Predictor(encoder, head, mask_size, mask_ratio, norm_window)
    _check(predictor, data.image_size)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        return base.Variables(predictor.init(key, batch["image"][:1]))

    def drawn(image: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which squares are masked, bool [B,M], and keys for drop path."""
        for_masks, for_drop_path = jax.vmap(jax.random.split, out_axes=1)(key)
        return predictor.masked(for_masks, image), for_drop_path

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        value, metrics = predictor.loss(params, batch["image"], *drawn(batch["image"], key))
        return value, base.Aux(metrics)

    def masks(batch: base.Batch, key: jax.Array) -> dict[str, jax.Array]:
        image = batch["image"]
        return {"image": drawn(image, key)[0].reshape(len(image), image.shape[1] // mask_size, -1)}

    def reconstruct(params: base.Params, image: jax.Array) -> jax.Array:
        """[B,3,H,W,C]; row i of any batch has the same mask."""
        return predictor.reconstruct(params, image, predictor.masked(masking.row_keys(len(image)), image))

    predict = {**probes.predictions(encoder), "reconstruct": reconstruct}
    # Exact: every example hides as many squares.
    return base.Objective(init, loss, predict, accumulate="mean", healthy=diagnostics.RANK, masks=masks)


def _check(predictor: Predictor, image_size: int) -> None:
    """Refuses squares that patches or the image do not fit, and masks that leave nothing to see or to predict."""
    size, patch, stride = predictor.mask_size, predictor.encoder.patch_size, predictor.encoder.stride
    if size % patch or image_size % size or image_size % stride:
        raise ConfigError(
            f"config.objective.mask_size = {size} must be a multiple of the encoder's patch_size = {patch} and divide "
            f"config.data.image_size = {image_size}, which the {stride} pixels from one token to the next must, too."
        )
    count = (image_size // size) ** 2
    visible = masking.visible(count, predictor.mask_ratio)
    if not 0 < visible < count:
        raise ConfigError(
            f"config.objective.mask_ratio = {predictor.mask_ratio} leaves {visible} of {count} squares of "
            f"mask_size = {size} pixels; some must be seen and some hidden."
        )
    window = predictor.norm_window
    if window is not None and (window < 3 or window % 2 == 0):
        raise ConfigError(f"config.objective.norm_window = {window} must be odd, and at least 3, or None.")


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Functions of parameters {"encoder", "head"}, images [B,H,W,C] and which squares are masked, bool [B,M].

    Squares are in row-major order.

    Attributes:
      encoder: from `vitfm.models`, taking `masked`.
      head: from the last tokens to pixels.
      mask_size, mask_ratio, norm_window: see `make`.
    """

    encoder: nn.Module
    head: nn.Module
    mask_size: int
    mask_ratio: float
    norm_window: int | None = None

    def masked(self, keys: jax.Array, image: jax.Array) -> jax.Array:
        """The squares that are masked, bool [B,M], row i drawn by keys [B] i alone, as many in each."""
        rows, columns = (side // self.mask_size for side in image.shape[1:3])
        visible = masking.visible(rows * columns, self.mask_ratio)
        return masking.hidden(masking.noise(keys, rows * columns), visible)

    def init(self, key: jax.Array, image: jax.Array) -> base.Params:
        keys = jax.random.split(key, 2)
        features, encoder = self.encoder.init_with_output(keys[0], image)
        tokens = features.tokens[:, features.prefix :]
        return {"encoder": encoder["params"], "head": self.head.init(keys[1], tokens)["params"]}

    def loss(
        self, params: base.Params, image: jax.Array, masked: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean absolute error of the masked pixels (equation 1), [], and the features' rank.

        `keys` [B] are for drop path.
        """
        features = self._encoded(params, image, masked, keys)
        predicted = self._squares(self._decoded(params, features, image))
        mean, deviation = self._normal(image)
        value = reconstruction.masked_l1(predicted, self._squares((image - mean) / deviation), masked)
        return value, {"effective_rank": diagnostics.effective_rank(features.mean(features.tokens))}

    def reconstruct(self, params: base.Params, image: jax.Array, masked: jax.Array) -> jax.Array:
        """[B,3,H,W,C]: the image; what is seen, the rest 0, the mean colour; the rest filled with predictions."""
        mean, deviation = self._normal(image)  # What the model can't know: they are the true image's.
        predicted = self.predict(params, image, masked).astype(image.dtype) * deviation + mean
        hidden = self._grid(masked, image, self.mask_size)[..., None]
        return jnp.stack([image, jnp.where(hidden, 0, image), jnp.where(hidden, predicted, image)], 1)

    def predict(
        self, params: base.Params, image: jax.Array, masked: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Every pixel, [B,H,W,C]."""
        return self._decoded(params, self._encoded(params, image, masked, keys), image)

    def _encoded(
        self, params: base.Params, image: jax.Array, masked: jax.Array, keys: jax.Array | None
    ) -> models.Features:
        masked = self._grid(masked, image, self.mask_size // self.encoder.patch_size).reshape(len(image), -1)
        return self.encoder.apply({"params": params["encoder"]}, image, None, keys, masked=masked)

    def _decoded(self, params: base.Params, features: models.Features, image: jax.Array) -> jax.Array:
        """Every pixel of an `image` of this shape, [B,H,W,C]."""
        pixels = self.head.apply({"params": params["head"]}, features.tokens[:, features.prefix :])
        return stem.assembled(pixels, image.shape, self.encoder.stride)

    def _normal(self, image: jax.Array) -> tuple[jax.Array | float, jax.Array | float]:
        """Mean and deviation that pixels are predicted by: 0 and 1 for pixels as they are."""
        if self.norm_window is None:
            return 0.0, 1.0
        return reconstruction.local_statistics(image, self.norm_window)

    def _grid(self, masked: jax.Array, image: jax.Array, times: int) -> jax.Array:
        """[B,M] -> [B,h*times,w*times], each square as so many rows and columns."""
        rows, columns = (side // self.mask_size for side in image.shape[1:3])
        return masking.spread(masked, (rows, columns), times)

    def _squares(self, image: jax.Array) -> jax.Array:
        """[B,H,W,C] -> [B,M,mask_size*mask_size*C]."""
        squares = stem.patches(image, self.mask_size)
        return squares.reshape(len(image), -1, squares.shape[-1])
