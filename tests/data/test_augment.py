"""Arithmetic on pixels equals Pillow's, and each example's is its own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vitfm.config import ConfigError
from vitfm.data import augment

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # Results in [0, 1].


def pixels(count: int, channels: int = 3, size: int = 12) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def trained(options: tuple[tuple[str, Any], ...]) -> Any:
    return jax.jit(augment.make(**dict(options))[0])


def train(images: np.ndarray, keys: jax.Array, **options: Any) -> np.ndarray:
    return np.asarray(trained(tuple(options.items()))({"image": images}, keys)["image"])


@pytest.mark.parametrize(
    ("option", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_jitter_is_pillows_enhancement_by_a_factor_of_its_own(option: str, enhance: type):
    images, factors = pixels(40), []
    for image, ours in zip(images, train(images, keys(40), **{option: 0.6}, **PLAIN) * 255, strict=True):
        reference = enhance(Image.fromarray(image))
        # The factor that explains the pixels which no clipping touched; Pillow keeps the pole it blends with.
        pole = np.asarray(reference.degenerate.convert("RGB"), np.float64)
        free = (ours > 1) & (ours < 254) & (np.abs(image - pole) > 20)
        factors.append(((ours - pole)[free] / (image - pole)[free]).mean())
        theirs = np.asarray(reference.enhance(factors[-1]), np.float64)
        assert np.abs(ours - theirs).max() < 1.6  # Pillow rounds its pole and its result.
    assert 0.38 < min(factors) < 0.6
    assert 1.4 < max(factors) < 1.62
    assert len({round(factor, 3) for factor in factors}) > 30


def test_grayscale_takes_its_share_and_is_pillows():
    images = pixels(200)
    gray = train(images, keys(200), grayscale=0.3, **PLAIN) * 255
    turned = np.ptp(gray, axis=-1).max((1, 2)) < 1e-3
    assert 35 < turned.sum() < 85
    np.testing.assert_allclose(gray[~turned], images[~turned], atol=1e-3)
    for image, ours in zip(images[turned][:5], gray[turned], strict=False):
        assert np.abs(ours[..., 0] - np.asarray(Image.fromarray(image).convert("L"), np.float64)).max() < 1.1
    assert (np.ptp(train(images, keys(200), grayscale=1.0, **PLAIN), axis=-1) < 1e-5).all()


def test_transparency_shows_white_or_a_colour_of_its_own():
    images = pixels(30, channels=4)
    opacity = images[..., 3:] / 255
    white = train(images, keys(30), **PLAIN)
    np.testing.assert_allclose(white, images[..., :3] / 255 * opacity + (1 - opacity), atol=1e-6)
    coloured = train(images, keys(30), background="random", **PLAIN)
    behind = (coloured - images[..., :3] / 255 * opacity) / np.maximum(1 - opacity, 1e-9)
    seen = [behind[i][opacity[i, ..., 0] < 0.5] for i in range(30)]
    colours = np.stack([colour.mean(0) for colour in seen])
    assert max(np.ptp(colour, axis=0).max() for colour in seen) < 1e-4  # One colour an image...
    assert len(np.unique(colours.round(4), axis=0)) == 30  # ... and another for each.
    assert colours.min() < 0.1 < 0.9 < colours.max()
    opaque = pixels(4)
    np.testing.assert_allclose(train(opaque, keys(4), background="random", **PLAIN), opaque / 255, atol=1e-6)


EVERYTHING = {"background": "random", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "grayscale": 0.3}


def test_each_example_depends_on_its_own_pixels_and_key_alone():
    images, own, order = pixels(16, channels=4), keys(16), np.random.default_rng(0).permutation(16)
    together = train(images, own, **EVERYTHING)
    np.testing.assert_allclose(train(images[order], own[order], **EVERYTHING), together[order], atol=1e-6)
    np.testing.assert_allclose(train(images[3:5], own[3:5], **EVERYTHING), together[3:5], atol=1e-6)
    other = train(images, keys(16, seed=1), **EVERYTHING)
    assert np.abs(other - together).max((1, 2, 3)).min() > 0.01


def test_draws_do_not_hang_together():
    """Brightness and contrast have keys of their own: strong in the one is not strong in the other."""
    gray = np.broadcast_to(np.array([100, 120], np.uint8)[:, None, None], (300, 2, 2, 3))
    both = train(gray, keys(300), brightness=0.3, contrast=0.3, **PLAIN)[..., 0]
    bright, contrast = both.mean((1, 2)), both[:, 1].mean(1) - both[:, 0].mean(1)
    assert abs(np.corrcoef(bright, contrast / bright)[0, 1]) < 0.2


def test_evaluation_is_training_without_chance():
    images = pixels(6, channels=4)
    evaluate = augment.make(**EVERYTHING)[1]
    found = np.asarray(evaluate({"image": images})["image"])
    np.testing.assert_allclose(found, train(images, keys(6)), atol=1e-6)
    opacity = images[..., 3:] / 255
    np.testing.assert_allclose(found, 2 * (images[..., :3] / 255 * opacity + 1 - opacity) - 1, atol=1e-5)


def test_normalisation_is_by_channel():
    images, mean, std = pixels(3), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    found = train(images, keys(3), mean=mean, std=std)
    np.testing.assert_allclose(found, (images / 255 - mean) / std, atol=1e-5)
    assert found.dtype == np.float32


def test_other_columns_pass_through():
    batch = {"image": pixels(2), "text": jnp.arange(6).reshape(2, 3)}
    preprocess, evaluate = augment.make(brightness=0.1)
    for processed in (preprocess(batch, keys(2)), evaluate(batch)):
        assert processed["text"] is batch["text"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"brightness": -0.1}, r"augment\.brightness = -0\.1"),
        ({"saturation": -1}, r"augment\.saturation = -1"),
        ({"grayscale": 1.5}, r"augment\.grayscale = 1\.5 is a share"),
        ({"mean": (0.5,)}, r"mean = \(0\.5,\) .* three numbers"),
        ({"std": (0.5, 0.0, 0.5)}, r"std above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        augment.make(**options)
