"""Arithmetic on pixels, on the device and inside the jitted step: backgrounds, colours, normalisation.

Each draw comes from its example's own key, so neither hosts, devices nor accumulation change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vitfm.config import ConfigError

Batch = Mapping[str, jax.Array]


class Preprocessing(NamedTuple):
    """What `make` returns.

    Attributes:
      train: (batch, keys [B]) -> batch.
      evaluate: batch -> batch, without chance.
      to_pixels: normalised images, float [...,H,W,3] -> uint8 NumPy array.
    """

    train: Callable[[Batch, jax.Array], Batch]
    evaluate: Callable[[Batch], Batch]
    to_pixels: Callable[[np.ndarray], np.ndarray]


LUMA = (0.299, 0.587, 0.114)  # Weights of ITU-R BT.601, as in Pillow and torchvision.


def make(
    *,
    background: Literal["white", "random"] = "white",
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    grayscale: float = 0.0,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
) -> Preprocessing:
    """Preprocessing of `image` for training and for evaluation: uint8 [B,H,W,3 or 4] -> normalised float32 [B,H,W,3].

    Args:
      background: what shows through transparent pixels in training: white (always so in evaluation), or for each
        example a colour of its own.
      brightness, contrast, saturation: largest relative change, drawn from [1 - x, 1 + x].
      grayscale: share of the images that lose their colour.
      mean, std: of the channels, for values in [0, 1].

    Raises:
      ConfigError: a strength, share, mean or deviation that is none.
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if value < 0:
            raise ConfigError(f"config.data.augment.{name} = {value} must be at least 0.")
    if not 0 <= grayscale <= 1:
        raise ConfigError(f"config.data.augment.grayscale = {grayscale} is a share, from 0 to 1.")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConfigError(
            f"config.data.augment: mean = {mean} and std = {std} must be three numbers each, std above 0."
        )
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def normalise(image: jax.Array) -> jax.Array:
        return (image - mean) / std

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 5)
        behind = jax.random.uniform(keys[0], (3,)) if background == "random" else jnp.ones(3)
        image = composite(image, behind)
        image = _jitter(image, keys[1], brightness, lambda image: jnp.zeros(()))
        image = _jitter(image, keys[2], contrast, lambda image: (image @ jnp.asarray(LUMA)).mean())
        image = _jitter(image, keys[3], saturation, lambda image: (image @ jnp.asarray(LUMA))[..., None])
        if grayscale:
            gray = jax.random.bernoulli(keys[4], grayscale)
            image = jnp.where(gray, (image @ jnp.asarray(LUMA))[..., None], image)
        return normalise(image)

    def train(batch: Batch, keys: jax.Array) -> Batch:
        return {**batch, "image": jax.vmap(one)(batch["image"], keys)}

    def evaluate(batch: Batch) -> Batch:
        return {**batch, "image": normalise(composite(batch["image"], jnp.ones(3)))}

    def to_pixels(image: np.ndarray) -> np.ndarray:
        pixels = np.round((np.asarray(image, np.float32) * std + mean) * 255)
        return np.clip(pixels, 0, 255).astype(np.uint8)

    return Preprocessing(train, evaluate, to_pixels)


def composite(image: jax.Array, behind: jax.Array) -> jax.Array:
    """uint8 [..., 3 or 4] -> float32 [..., 3] in [0, 1]; what is transparent shows `behind`, [3]."""
    image = image.astype(jnp.float32) / 255
    if image.shape[-1] == 3:
        return image
    opacity = image[..., 3:]
    return image[..., :3] * opacity + behind * (1 - opacity)


def _jitter(image: jax.Array, key: jax.Array, strength: float, pole: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Moves the image away from or towards `pole(image)` by a random factor, as torchvision's blend does."""
    if not strength:
        return image
    factor = jax.random.uniform(key, (), minval=max(0.0, 1 - strength), maxval=1 + strength)
    return jnp.clip(factor * image + (1 - factor) * pole(image), 0, 1)
