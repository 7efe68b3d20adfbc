"""Arithmetic on pixels equals Pillow's, and each example's is its own."""

from __future__ import annotations

import ast
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from vitfm.config import ConfigError
from vitfm.data import augment

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # Results in [0, 1].


def pixels(count: int, channels: int = 3, size: int = 12) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def trained(options: str) -> Any:
    return jax.jit(augment.make(**ast.literal_eval(options))[0])


def train(images: np.ndarray, keys: jax.Array, **options: Any) -> np.ndarray:
    return np.asarray(trained(repr(options))({"image": images}, keys)["image"])


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


COLOURS = {"background": "random", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "grayscale": 0.3}
EVERYTHING = {
    **COLOURS,
    "flip": 0.5,
    "randaugment": {"num_layers": 1, "magnitude_std": 1.0, "probability": 0.8},
    "hue": 0.2,
    "jitter_probability": 0.8,
    "blur": {"probability": 0.5, "sigma": (0.1, 1.0)},
    "solarize": {"probability": 0.5},
    "erase": {"probability": 0.5, "fill": "noise"},
}


def test_each_example_depends_on_its_own_pixels_and_key_alone():
    images, own, order = pixels(16, channels=4), keys(16), np.random.default_rng(0).permutation(16)
    together = train(images, own, **EVERYTHING)
    np.testing.assert_allclose(train(images[order], own[order], **EVERYTHING), together[order], atol=1e-5)
    others = np.arange(16) > 4  # Other neighbours.
    mixed = train(
        np.where(others[:, None, None, None], images[::-1], images), keys(16).at[5:].set(keys(11, 9)), **EVERYTHING
    )
    np.testing.assert_allclose(mixed[:5], together[:5], atol=1e-5)
    other = train(images, keys(16, seed=1), **EVERYTHING)
    assert np.abs(other - together).max((1, 2, 3)).min() > 0.01


def test_draws_are_those_with_which_recipes_were_measured():
    """New operations moved none of them: the first five draws are the first five parts of the example's key."""

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        parts = jax.random.split(key, 5)
        image, opacity = image[..., :3] / 255, image[..., 3:] / 255
        image = image * opacity + jax.random.uniform(parts[0], (3,)) * (1 - opacity)
        gray = lambda image: (image @ np.array([0.299, 0.587, 0.114]))[..., None]
        for part, pole in zip(parts[1:4], (lambda _: 0.0, lambda image: gray(image).mean(), gray), strict=True):
            factor = jax.random.uniform(part, (), minval=0.6, maxval=1.4)
            image = jnp.clip(factor * image + (1 - factor) * pole(image), 0, 1)
        return jnp.where(jax.random.bernoulli(parts[4], 0.3), gray(image), image)

    images = pixels(16, channels=4)
    np.testing.assert_allclose(train(images, keys(16), **COLOURS, **PLAIN), jax.vmap(one)(images, keys(16)), atol=2e-6)


ALONE = {  # Each operation with a probability p.
    "flip": lambda p: {"flip": p},
    "randaugment": lambda p: {"randaugment": {"magnitude": 4, "num_layers": 1, "probability": p}},
    "jitter": lambda p: {"brightness": 0.5, "hue": 0.3, "jitter_probability": p},
    "grayscale": lambda p: {"grayscale": p},
    "blur": lambda p: {"blur": {"probability": p, "sigma": (0.5, 1.0)}},
    "solarize": lambda p: {"solarize": {"probability": p}},
    "erase": lambda p: {"erase": {"probability": p}},
}


@pytest.mark.parametrize("operation", list(ALONE))
def test_probability_is_the_share_of_the_images_that_change(operation: str):
    images = np.random.default_rng(1).integers(0, 256, (64, 12, 12, 3), dtype=np.uint8)
    found = lambda p: train(images, keys(64), **ALONE[operation](p), **PLAIN)
    changed = lambda p: (np.abs(found(p) - images / 255) > 2e-3).any((1, 2, 3))
    assert 16 < changed(0.5).sum() < 48
    if operation != "randaugment":  # It compiles for seconds, and some of its operations may do nothing.
        assert not changed(0.0).any() and changed(1.0).mean() > 0.99


def test_what_is_off_is_not_computed():
    def operations(**options: Any) -> int:
        preprocess = augment.make(**options)[0]
        step = jax.jit(lambda batch, keys: preprocess(batch, keys)).lower({"image": pixels(2)}, keys(2))
        return step.as_text().count("stablehlo.")

    off = {"randaugment": None, "blur": None, "solarize": None, "erase": None}
    assert operations() == operations(**off, flip=0.0, hue=0.0, jitter_probability=1.0) < 20
    assert operations(**COLOURS) == operations(**COLOURS, **off, hue=0.0)


def test_a_flip_mirrors_left_and_right():
    images = pixels(40)
    found = train(images, keys(40), flip=1.0, **PLAIN)
    np.testing.assert_allclose(found, images[:, :, ::-1] / 255, atol=1e-6)


def test_hue_turns_and_keeps_brightest_and_darkest():
    images = pixels(64)
    found = train(images, keys(64), hue=0.5, **PLAIN)
    for extreme in (np.max, np.min):
        np.testing.assert_allclose(extreme(found, -1), extreme(images / 255, -1), atol=1e-5)
    assert (np.abs(found - images / 255).max((1, 2, 3)) > 0.1).mean() > 0.8


def test_blur_is_stronger_for_some_and_changes_nothing_flat():
    flat = np.broadcast_to(np.array([10, 100, 200], np.uint8), (4, 12, 12, 3))
    blurred = train(flat, keys(4), blur={"probability": 1.0, "sigma": (0.5, 1.5)}, **PLAIN)
    np.testing.assert_allclose(blurred, flat / 255, atol=1e-6)
    point = np.zeros((64, 25, 25, 3), np.uint8)
    point[:, 12, 12] = 255
    found = train(point, keys(64), blur={"probability": 1.0, "sigma": (0.3, 2.0), "kernel_size": 13}, **PLAIN)[..., 0]
    np.testing.assert_allclose(found.sum((1, 2)), 1, atol=1e-5)
    spread = np.sqrt((found * (np.arange(25) - 12.0) ** 2).sum((1, 2)))  # The deviation, on a lattice and cut off.
    assert 0.08 < spread.min() < 0.6 and 1.7 < spread.max() < 2.0


@given(
    st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.1, 1), st.floats(1, 10), st.sampled_from([(16, 16), (16, 30)])
)
@settings(max_examples=40, deadline=None)
def test_erased_boxes_lie_inside_and_have_the_area_and_shape_asked_for(
    one: float, other: float, low: float, high: float, shape: tuple[int, int]
):
    area, (height, width) = sorted((one, other)), shape
    box = lambda keys: augment.random_box(keys, height, width, area, (low, high))
    top, left, bottom, right = map(np.asarray, jax.vmap(box)(jax.random.split(jax.random.key(0), (50, 4))))
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= height).all() and (right <= width).all()
    tall, wide = bottom - top, right - left
    assert tall.min() >= 1 and wide.min() >= 1
    assert ((tall - 0.5) * (wide - 0.5) <= area[1] * height * width + 1e-3).all()
    assert ((tall + 0.5) * (wide + 0.5) >= area[0] * height * width - 1e-3).all()
    if height == width:
        assert ((tall - 0.5) / (wide + 0.5) <= high).all() and ((tall + 0.5) / (wide - 0.5) >= low).all()


def test_what_is_erased_is_the_mean_or_noise_around_it():
    images = np.full((64, 24, 24, 3), 250, np.uint8)
    erase = {"probability": 1.0, "area": (0.25, 0.3)}
    constant = train(images, keys(64), erase=erase)
    erased = (constant == 0).all(-1)
    assert (np.abs(erased.mean((1, 2)) - 0.275) < 0.07).all()
    np.testing.assert_allclose(constant[~erased], 250 / 127.5 - 1, atol=1e-6)
    noise = train(images, keys(64), erase={**erase, "fill": "noise"})
    np.testing.assert_array_equal(noise[~erased], constant[~erased])
    drawn = noise[erased]
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05
    assert len(np.unique(drawn)) > 0.99 * drawn.size


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
        ({"flip": -0.1}, r"augment\.flip = -0\.1 is a share"),
        ({"jitter_probability": 2}, r"augment\.jitter_probability = 2 is a share"),
        ({"hue": 0.6}, r"augment\.hue = 0\.6 .* from 0 to 0\.5"),
        ({"blur": {"probability": 2.0}}, r"augment\.blur\.probability = 2\.0 is a share"),
        ({"blur": {"sigma": (2.0, 0.1)}}, r"augment\.blur\.sigma = \(2\.0, 0\.1\) is not two numbers"),
        ({"blur": {"kernel_size": 4}}, r"augment\.blur\.kernel_size = 4 must be an odd number"),
        ({"blur": {"sigam": (0.1, 2.0)}}, r"augment\.blur\.sigam: did you mean 'sigma'"),
        ({"solarize": {"threshold": 128}}, r"augment\.solarize\.threshold = 128 is a share"),
        ({"erase": {"area": (0.2, 1.2)}}, r"augment\.erase\.area = .* at most 1"),
        ({"erase": {"aspect": (2.0, 3.0)}}, r"augment\.erase\.aspect = .* below to above 1"),
        ({"erase": {"fill": "black"}}, r"augment\.erase\.fill = 'black'"),
        ({"randaugment": {"num_layers": 0}}, r"augment\.randaugment\.num_layers = 0"),
        ({"randaugment": {"magnitude": 11}}, r"augment\.randaugment\.magnitude = 11 goes from 0 to 10"),
        ({"randaugment": {"magnitude_std": -1}}, r"augment\.randaugment\.magnitude_std = -1"),
        ({"randaugment": {"probability": 1.1}}, r"augment\.randaugment\.probability = 1\.1"),
        ({"randaugment": {"behind": (0, 0, 0)}}, r"Unknown key config\.data\.augment\.randaugment\.behind"),
        ({"mean": (0.5,)}, r"mean = \(0\.5,\) .* 3 numbers each, .*data stats"),
        ({"std": (0.5, 0.0, 0.5)}, r"std above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        augment.make(**options)


def test_a_kernel_larger_than_the_image_is_refused():
    preprocess = augment.make(blur={"sigma": (0.1, 5.0)})[0]
    with pytest.raises(ConfigError, match=r"augment\.blur: a kernel of 31 pixels is too large .*\(12, 12\)"):
        preprocess({"image": pixels(2)}, keys(2))


def test_to_pixels_undoes_the_normalisation():
    images, options = pixels(5), {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
    np.testing.assert_array_equal(augment.to_pixels(train(images, keys(5), **options), **options), images)
    assert augment.to_pixels(np.array([[[-9.0, 0.0, 9.0]]])).tolist() == [[[0, 128, 255]]]
