"""What happens to pixels on the device, inside the jitted step: backgrounds, distortions, colours, normalisation.

Each draw comes from its example's own key, so neither hosts, devices nor accumulation change it. What is not asked for
is not computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import bands, ops, randaugment
from vitfm.data.inputs import Input

Batch = Mapping[str, jax.Array]
# Numbers of the draws from an example's key; a new one goes at the end, so that it moves none of the others.
(BACKGROUND, BRIGHTNESS, CONTRAST, SATURATION, GRAYSCALE, FLIP, DISTORT, HUE, JITTER, BLUR, SOLARIZE, ERASE) = range(12)
MEAN, STD = (0.5,), (0.5,)  # Of any number of channels.
_OF_COLOURS = ("randaugment", "contrast", "saturation", "hue", "grayscale")  # What needs three channels of RGB.


def make(
    *,
    background: Literal["white", "random"] = "white",
    flip: float = 0.0,
    randaugment: Mapping[str, Any] | None = None,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    jitter_probability: float = 1.0,
    grayscale: float = 0.0,
    blur: Mapping[str, Any] | None = None,
    solarize: Mapping[str, Any] | None = None,
    erase: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    path: str = "data.augment",
    spec: Input = Input(),
) -> tuple[Callable[[Batch, jax.Array], Batch], Callable[[Batch], Batch]]:
    """Preprocessing of `image` for training and for evaluation: uint8 [B,H,W,3 or 4] -> normalised float32 [B,H,W,3].

    Images of other types and channels are taken as `spec` has them; what is done to colours is refused for those.
    In training everything is done in the order of the options.

    Args:
      background: what shows through transparent pixels in training: white (always so in evaluation), or for each
        example a colour of its own.
      flip: share of the images that are mirrored left and right; the host can do the same (`flip` of `data.crop`).
      randaugment: options of `vitfm.data.randaugment.make`: `num_layers`, `magnitude`, ...; None for none.
      brightness, contrast, saturation: largest relative change, drawn from [1 - x, 1 + x]. Always in this order, then
        hue; torchvision's ColorJitter shuffles the four.
      hue: largest turn, drawn from [-x, x], in parts of the circle: at most 0.5.
      jitter_probability: share of the images that these four change.
      grayscale: share of the images that lose their colour.
      blur: options of `blurring`: `probability`, `sigma`, `kernel_size`; None for none.
      solarize: options of `solarizing`: `probability`, `threshold`; None for none.
      erase: options of `erasing`, done after normalisation: `probability`, `area`, `aspect`, `fill`; None for none.
      mean, std: of the channels, for values in [0, 1]; None is 0.5 for each. `python -m vitfm.data stats` knows better.
      path: of these options in the recipe, for messages.
      spec: of the images, before they are preprocessed.

    Returns:
      (batch, keys [B]) -> batch for training, and batch -> batch for evaluation.

    Raises:
      ConfigError: a strength, share, mean or deviation that is none, or what such images have no colours for.
    """
    asked = dict(zip(_OF_COLOURS, (randaugment, contrast, saturation, hue, grayscale), strict=True))
    bands.check_colours(path, [name for name, value in asked.items() if value not in (None, 0)], spec)
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if value < 0:
            raise ConfigError(f"config.{path}.{name} = {value} must be at least 0.")
    if not 0 <= hue <= 0.5:
        raise ConfigError(f"config.{path}.hue = {hue} is a part of the colour circle, from 0 to 0.5.")
    for name, value in (("flip", flip), ("jitter_probability", jitter_probability), ("grayscale", grayscale)):
        _check_share(f"{path}.{name}", value)
    channels = spec.channels
    mean, std = MEAN * channels if mean is None else mean, STD * channels if std is None else std
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise ConfigError(
            f"config.{path}: mean = {mean} and std = {std} must be {channels} numbers each, std above 0; "
            "`python -m vitfm.data stats` measures them."
        )
    part = lambda function, options, name, **context: (
        options is not None and config.call(function, options, where=f"{path}.{name}", path=f"{path}.{name}", **context)
    )
    distort = part(_randaugment.make, randaugment, "randaugment", behind=mean)
    blurred = part(blurring, blur, "blur")
    solarized = part(solarizing, solarize, "solarize")
    erased = part(erasing, erase, "erase")
    jitter = _jitter(brightness, contrast, saturation, hue)
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def unit(image: jax.Array, behind: jax.Array) -> jax.Array:
        low, high = spec.range
        return ops.composite(image, behind, high, low) if channels == 3 else ops.unit(image, low, high)

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        draw = lambda number: jax.random.fold_in(key, number)
        behind = jax.random.uniform(draw(BACKGROUND), (3,)) if background == "random" else jnp.ones(3)
        image = unit(image, behind)
        if flip:
            image = _sometimes(flip, draw(FLIP), image[:, ::-1], image)
        if distort:
            image = distort(image, draw(DISTORT))
        image = _sometimes(jitter_probability, draw(JITTER), jitter(image, draw), image)
        if grayscale:
            image = _sometimes(grayscale, draw(GRAYSCALE), ops.luma(image)[..., None], image)
        if blurred:
            image = blurred(image, draw(BLUR))
        if solarized:
            image = solarized(image, draw(SOLARIZE))
        image = (image - mean) / std
        return erased(image, draw(ERASE)) if erased else image

    def train(batch: Batch, keys: jax.Array) -> Batch:
        return {**batch, "image": jax.vmap(one)(batch["image"], keys)}

    def evaluate(batch: Batch) -> Batch:
        return {**batch, "image": (unit(batch["image"], jnp.ones(3)) - mean) / std}

    return train, evaluate


def to_pixels(image: np.ndarray, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> np.ndarray:
    """Normalised images, float [...,H,W,C] -> uint8 [...,H,W,3], on the host, see `vitfm.data.bands.visible`."""
    return bands.visible(np.asarray(image, np.float32) * np.asarray(std, np.float32) + np.asarray(mean, np.float32))


def adapting(here: Mapping[str, Any], there: Mapping[str, Any], image_size: int) -> Callable[[jax.Array], jax.Array]:
    """Images normalised for one model -> the same pictures for another: [B,H,W,C] -> [B,S,S,C], float32.

    Args:
      here, there: options of `make` for the two; of those `mean` and `std` count.
      image_size: S; other sizes are resized, linearly and with antialiasing.
    """
    constants = lambda options: (np.float32(options.get("mean") or MEAN), np.float32(options.get("std") or STD))
    (mean, std), (its_mean, its_std) = constants(here), constants(there)
    scale, shift = std / its_std, (mean - its_mean) / its_std

    def adapt(image: jax.Array) -> jax.Array:
        shape = (len(image), image_size, image_size, image.shape[-1])
        resized = image if image.shape == shape else jax.image.resize(image, shape, "linear", antialias=True)
        return resized.astype(jnp.float32) * scale + shift

    return adapt


_randaugment = randaugment  # `make` has an option of the module's name.


def _jitter(
    brightness: float, contrast: float, saturation: float, hue: float
) -> Callable[[jax.Array, Callable[[int], jax.Array]], jax.Array]:
    """(image, number of a draw -> key) -> image, its colours changed by torchvision's arithmetic."""

    def towards(image: jax.Array, key: jax.Array, strength: float, pole: jax.Array) -> jax.Array:
        factor = jax.random.uniform(key, (), minval=max(0.0, 1 - strength), maxval=1 + strength)
        return ops.blend(image, pole, factor)

    def jitter(image: jax.Array, draw: Callable[[int], jax.Array]) -> jax.Array:
        if brightness:
            image = towards(image, draw(BRIGHTNESS), brightness, jnp.zeros(()))
        if contrast:
            image = towards(image, draw(CONTRAST), contrast, ops.luma(image).mean())
        if saturation:
            image = towards(image, draw(SATURATION), saturation, ops.luma(image)[..., None])
        if hue:
            image = ops.shift_hue(image, jax.random.uniform(draw(HUE), (), minval=-hue, maxval=hue))
        return image

    return jitter


def blurring(
    *, probability: float = 0.5, sigma: Sequence[float] = (0.1, 2.0), kernel_size: int | None = None, path: str
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(image, key) -> image, blurred or not.

    Args:
      probability: share of the images that are blurred.
      sigma: range of the standard deviation, in pixels.
      kernel_size: an odd number of pixels; None takes three deviations of the strongest blur to each side.
      path: of these options in the recipe, for messages.

    Raises:
      ConfigError: a number out of its range.
    """
    _check_share(f"{path}.probability", probability)
    _check_range(f"{path}.sigma", sigma)
    size = 2 * math.ceil(3 * sigma[1]) + 1 if kernel_size is None else kernel_size
    if size < 3 or size % 2 == 0:
        raise ConfigError(f"config.{path}.kernel_size = {size} must be an odd number from 3 up.")

    def blur(image: jax.Array, key: jax.Array) -> jax.Array:
        if size // 2 >= min(image.shape[:2]):
            raise ConfigError(f"config.{path}: a kernel of {size} pixels is too large for images of {image.shape[:2]}.")
        chance, width = jax.random.split(key)
        drawn = jax.random.uniform(width, (), minval=sigma[0], maxval=sigma[1])
        return _sometimes(probability, chance, ops.gaussian_blur(image, drawn, size), image)

    return blur


def solarizing(
    *, probability: float = 0.2, threshold: float = 0.5, path: str
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(image, key) -> image, inverted where it is bright or not.

    Args:
      probability: share of the images that are solarized.
      threshold: values in [0, 1] from which on they are inverted.
      path: of these options in the recipe, for messages.

    Raises:
      ConfigError: a number out of its range.
    """
    _check_share(f"{path}.probability", probability)
    _check_share(f"{path}.threshold", threshold)
    return lambda image, key: _sometimes(probability, key, ops.solarize(image, threshold), image)


def erasing(
    *,
    probability: float = 0.25,
    area: Sequence[float] = (0.02, 1 / 3),
    aspect: Sequence[float] = (0.3, 1 / 0.3),
    fill: Literal["mean", "noise"] = "mean",
    path: str,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(normalised image, key) -> image, a rectangle of it erased or not (Zhong et al. 2017, arXiv:1708.04896).

    Args:
      probability: share of the images that lose a rectangle.
      area: range of its area relative to the image's.
      aspect: range of its height over width, drawn log-uniformly from the part of it for which the rectangle fits, or
        the nearest for which it does; it has to hold 1.
      fill: the colour at `mean`, or for each pixel a normal draw around it.
      path: of these options in the recipe, for messages.

    Raises:
      ConfigError: a number out of its range.
    """
    _check_share(f"{path}.probability", probability)
    _check_range(f"{path}.area", area, most=1.0)
    _check_range(f"{path}.aspect", aspect)
    if not aspect[0] <= 1 <= aspect[1]:
        raise ConfigError(f"config.{path}.aspect = {tuple(aspect)} must reach from below to above 1.")

    def erase(image: jax.Array, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 6)
        chosen = ops.inside(random_box(keys[:4], *image.shape[:2], area, aspect), *image.shape[:2])[..., None]
        new = jax.random.normal(keys[5], image.shape) if fill == "noise" else 0.0
        return _sometimes(probability, keys[4], jnp.where(chosen, new, image), image)

    return erase


def random_box(
    keys: jax.Array, height: int, width: int, area: Sequence[float], aspect: Sequence[float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(top, left, bottom, right) of a rectangle inside an image, from four keys; see `erasing`."""
    share = jax.random.uniform(keys[0], (), minval=area[0], maxval=area[1])
    # Between these it fits: there it is as wide as the image, and there as high.
    widest, highest = share * height / width, height / (width * share)
    low, high = (jnp.log(jnp.clip(bound, widest, highest)) for bound in aspect)
    ratio = jnp.exp(jax.random.uniform(keys[1], (), minval=low, maxval=high))
    tall, wide = jnp.sqrt(share * height * width * ratio), jnp.sqrt(share * height * width / ratio)
    tall = jnp.clip(jnp.round(tall).astype(jnp.int32), 1, height)
    wide = jnp.clip(jnp.round(wide).astype(jnp.int32), 1, width)
    top = jax.random.randint(keys[2], (), 0, height - tall + 1)
    left = jax.random.randint(keys[3], (), 0, width - wide + 1)
    return top, left, top + tall, left + wide


def _sometimes(probability: float, key: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` with this probability, else `old`; what is certain is not drawn, and what never comes not computed."""
    if probability in (0, 1):
        return new if probability else old
    return jnp.where(jax.random.bernoulli(key, probability), new, old)


def _check_share(path: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"config.{path} = {value} is a share, from 0 to 1.")


def _check_range(path: str, limits: Sequence[float], most: float = math.inf) -> None:
    if len(limits) != 2 or not 0 < limits[0] <= limits[1] <= most:
        above = f", at most {most:g}" if most < math.inf else ""
        raise ConfigError(f"config.{path} = {tuple(limits)} is not two numbers above 0{above}, the smaller one first.")
