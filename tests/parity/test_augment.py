"""Arithmetic on pixels equals torchvision's, and RandAugment's operations timm's, level by level."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.parity.reference import relative_error, timm, torch
from vitfm.data import mix, ops, randaugment

F = importlib.import_module("torchvision.transforms.v2.functional")  # Importable once `reference` was.
theirs = importlib.import_module("timm.data.auto_augment")

SIZE = (20, 26)
FILL = (128, 128, 128)


def pixels(seed: int, *, low: int = 0, high: int = 256) -> np.ndarray:
    """uint8 [20,26,3], smooth enough to hold every range of values, noisy enough to be no picture twice."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(low, high - 1, SIZE[0] * SIZE[1]).reshape(*SIZE, 1)
    return np.clip(ramp + rng.normal(0, 30, (*SIZE, 3)), low, high - 1).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    """[H,W,3] -> [3,H,W]."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def image(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().transpose(1, 2, 0)


FLOATS = [(pixels(seed) / 255).astype(np.float32) for seed in range(3)]


@pytest.mark.parametrize("turn", [-0.5, -0.13, 0.0, 0.02, 0.4])
def test_hue(turn: float):
    shift = jax.jit(ops.shift_hue)
    for ours in FLOATS:
        assert relative_error(shift(ours, turn), image(F.adjust_hue(tensor(ours), turn))) < 1e-5


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_brightness_contrast_and_saturation(factor: float):
    """torchvision rounds the weight of red from 0.299, Pillow's, to 0.2989."""
    for ours in FLOATS:
        poles = {"brightness": 0.0, "contrast": ops.luma(ours).mean(), "saturation": ops.luma(ours)[..., None]}
        for name, pole in poles.items():
            reference = image(getattr(F, f"adjust_{name}")(tensor(ours), factor))
            np.testing.assert_allclose(ops.blend(ours, pole, factor), reference, atol=2e-4)


@pytest.mark.parametrize(("sigma", "kernel_size"), [(0.1, 13), (0.7, 5), (2.0, 13), (5.0, 19)])
def test_gaussian_blur(sigma: float, kernel_size: int):
    blur = jax.jit(ops.gaussian_blur, static_argnums=2)
    for ours in FLOATS:
        reference = image(F.gaussian_blur(tensor(ours), [kernel_size] * 2, [sigma] * 2))
        assert relative_error(blur(ours, sigma, kernel_size), reference) < 1e-5


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_solarize(threshold: float):
    for ours in FLOATS:
        np.testing.assert_array_equal(ops.solarize(ours, threshold), image(F.solarize(tensor(ours), threshold)))


def bytes_of(seed: int) -> list[np.ndarray]:
    """Images of the whole range of values, of a part of it, of one value, and of two."""
    flat = np.full((*SIZE, 3), 77, np.uint8)
    two = np.where(pixels(seed) > 90, 200, 10).astype(np.uint8)
    return [pixels(seed), pixels(seed, low=60, high=140), flat, two]


@pytest.mark.parametrize("image_number", range(4))
def test_tables_are_torchvisions(image_number: int):
    ours = bytes_of(4)[image_number]
    counts = ops.histogram(jnp.asarray(ours, jnp.int32))
    replaced = lambda table: ops.replaced(jnp.asarray(ours, jnp.int32), jnp.broadcast_to(table, (3, 256)))
    np.testing.assert_array_equal(counts, [np.bincount(ours[..., c].ravel(), minlength=256) for c in range(3)])
    np.testing.assert_array_equal(replaced(ops.equalized(counts)), image(F.equalize(tensor(ours))))
    np.testing.assert_array_equal(replaced(ops.inverted()), image(F.invert(tensor(ours))))
    for bits in range(9):
        np.testing.assert_array_equal(replaced(ops.posterized(bits)), image(F.posterize(tensor(ours), bits)))
    for threshold in (0, 1, 100, 255):
        np.testing.assert_array_equal(replaced(ops.solarized(threshold)), image(F.solarize(tensor(ours), threshold)))
    # torchvision rounds a quotient of floats down, which may fall just below a whole number.
    difference = np.asarray(replaced(ops.autocontrasted(counts))) - image(F.autocontrast(tensor(ours)))
    assert difference.min() >= 0 and difference.max() <= 1 and (difference > 0).mean() < 0.3


@pytest.mark.parametrize("factor", [0.1, 0.55, 1.0, 1.9])
def test_blends_of_bytes_are_torchvisions(factor: float):
    for ours in bytes_of(5):
        eight = jnp.asarray(ours, jnp.int32)
        table = ops.blended(ops.luma8(eight).mean(), factor)
        blends = {
            "contrast": ops.replaced(eight, jnp.broadcast_to(table, (3, 256))),
            "saturation": ops.blend8(eight, ops.luma8(eight)[..., None], factor),
            "sharpness": ops.blend8(eight, ops.smooth8(eight), factor),
        }
        for name, blend in blends.items():
            reference = image(getattr(F, f"adjust_{name}")(tensor(ours), factor)).astype(int)
            assert np.abs(np.asarray(blend) - reference).max() <= 1, name


@pytest.mark.parametrize("degrees", [-30.0, 7.5, 90.0, 180.0])
def test_rotation_is_torchvisions(degrees: float):
    ours = pixels(6)
    turned = ops.affine(jnp.asarray(ours, jnp.int32), ops.rotation(degrees, *SIZE), np.array(FILL))
    reference = image(F.rotate(tensor(ours), degrees, fill=list(FILL)))
    assert (np.asarray(turned) == reference).all(-1).mean() > 0.99  # But where two pixels are as near.


# RandAugment: which argument each operation takes from a level, and what it does with it.

TIMM = {  # Ours, and timm's by `increasing`.
    "autocontrast": ("AutoContrast", "AutoContrast"),
    "equalize": ("Equalize", "Equalize"),
    "invert": ("Invert", "Invert"),
    "rotate": ("Rotate", "Rotate"),
    "posterize": ("Posterize", "PosterizeIncreasing"),
    "solarize": ("Solarize", "SolarizeIncreasing"),
    "solarize_add": ("SolarizeAdd", "SolarizeAdd"),
    "colour": ("Color", "ColorIncreasing"),
    "contrast": ("Contrast", "ContrastIncreasing"),
    "brightness": ("Brightness", "BrightnessIncreasing"),
    "sharpness": ("Sharpness", "SharpnessIncreasing"),
    "shear_x": ("ShearX", "ShearX"),
    "shear_y": ("ShearY", "ShearY"),
    "translate_x": ("TranslateXRel", "TranslateXRel"),
    "translate_y": ("TranslateYRel", "TranslateYRel"),
}
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@functools.partial(jax.jit, static_argnums=3)
def all_operations(image: jax.Array, level: jax.Array, sign: jax.Array, increasing: bool) -> dict[str, jax.Array]:
    changes = randaugment.operations(image, level, sign, increasing)
    return {name: randaugment.changed(image, change, np.array(FILL)) for name, change in changes.items()}


@pytest.mark.parametrize("increasing", [False, True])
def test_operations_and_their_strengths_are_timms(increasing: bool, monkeypatch: pytest.MonkeyPatch):
    names = theirs._RAND_INCREASING_TRANSFORMS if increasing else theirs._RAND_TRANSFORMS
    assert [pair[increasing] for pair in TIMM.values()] == names
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.NEAREST}
    for magnitude, sign, seed in ((0, 1, 0), (3, -1, 1), (7.5, 1, 2), (9, -1, 3), (10, 1, 4)):
        monkeypatch.setattr(theirs, "_randomly_negate", lambda value, sign=sign: value * sign)
        ours = pixels(seed, low=30, high=210)
        found = all_operations(ours.astype(np.int32), magnitude / 10, sign, increasing)
        assert found.keys() == TIMM.keys()
        for name, result in found.items():
            if name == "posterize" and magnitude == (10 if increasing else 0):
                assert not np.asarray(result).any()  # No bit is kept, which Pillow now refuses.
                continue
            operation = theirs.AugmentOp(TIMM[name][increasing], 1.0, magnitude, hparams)
            reference = np.asarray(operation(Image.fromarray(ours))).astype(int)
            difference = np.abs(np.asarray(result) - reference)
            if name in MOVES:  # Pillow steps through its image in 65536ths of a pixel.
                assert (difference.max(-1) == 0).mean() > 0.98, (name, magnitude)
            else:
                assert difference.max() <= 1, (name, magnitude)
            if magnitude == 3:
                assert np.abs(reference - ours).max() > 10, name  # It does something.


def test_soft_labels_are_timms():
    labels, classes = np.array([2, 0, 1, 2]), 3
    mixed = mix.make(mixup=0.8, num_classes=classes)
    batch: dict[str, Any] = {"image": np.eye(4, dtype=np.float32)[:, None, None, :], "label": labels}
    out = jax.jit(mixed)(batch, jax.random.split(jax.random.key(0), 4))
    share = torch.from_numpy(np.asarray(out["image"])[:, 0, 0].diagonal().copy())  # Of each row's own image.
    # timm takes the batch in reverse for partners, we the row before.
    for row in range(4):
        pair = torch.from_numpy(labels[[row, row - 1]])
        reference = timm.data.mixup.mixup_target(pair, classes, share[row])[0]
        np.testing.assert_allclose(out["label"][row], reference, atol=1e-6)
