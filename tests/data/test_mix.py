"""Mixed images and labels tell of the same shares, and each row only of itself, the row before and its key."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from vitfm.config import ConfigError
from vitfm.data import mix

B, K, H, W = 64, 70, 12, 10


@functools.cache
def mixing(**options: Any) -> Any:
    return jax.jit(mix.make(**options, num_classes=K))


def batch(**more: Any) -> dict[str, Any]:
    """Row i shows the number i and is of class i."""
    image = np.broadcast_to(np.arange(B, dtype=np.float32)[:, None, None, None], (B, H, W, 3))
    return {"image": image, "label": np.arange(B, dtype=np.int32), **more}


def keys(seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), B)


def own_share(mixed: dict[str, Any]) -> np.ndarray:
    """[B,H,W]: how much of each pixel of row i is i, where the rest is i - 1."""
    rows, before = np.arange(B, dtype=np.float64), np.roll(np.arange(B), 1)
    return (np.asarray(mixed["image"])[..., 0] - before[:, None, None]) / (rows - before)[:, None, None]


MIXES = {"mixup": {"mixup": 0.8}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.8, "cutmix": 1.0}}


@pytest.mark.parametrize("name", list(MIXES))
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_labels_are_mixed_as_the_pixels_are(name: str, seed: int):
    mixed = mixing(**MIXES[name])(batch(), keys(seed))
    label, share = np.asarray(mixed["label"]), own_share(mixed)
    assert label.shape == (B, K) and label.dtype == np.float32
    np.testing.assert_allclose(label.sum(1), 1, atol=1e-5)
    rows = np.arange(B)
    np.testing.assert_allclose(label[rows, rows], share.mean((1, 2)), atol=1e-4)
    np.testing.assert_allclose(label[rows, np.roll(rows, 1)], 1 - share.mean((1, 2)), atol=1e-4)
    if name == "mixup":
        assert np.ptp(share, axis=(1, 2)).max() < 1e-4
    if name == "cutmix":
        np.testing.assert_allclose(share, share.round(), atol=1e-4)
        for other in 1 - share.round():  # A rectangle: all rows that it touches are alike.
            touched = other[other.any(1)]
            assert (touched == touched[:1]).all() and (np.abs(np.diff(touched[:1])).sum() <= 2)


def test_shares_are_drawn_from_the_beta_distribution():
    for alpha in (0.2, 1.0, 4.0):
        shares = np.concatenate([own_share(mixing(mixup=alpha)(batch(), keys(seed)))[:, 0, 0] for seed in range(20)])
        assert abs(shares.mean() - 0.5) < 0.03
        assert abs(shares.var() - 0.25 / (2 * alpha + 1)) < 0.01


def test_a_rectangle_has_the_size_of_its_share():
    for share in (0.0, 0.3, 0.99, 1.0):
        boxes = jax.vmap(lambda key, share=share: mix._box(key, np.float32(share), H, W))(keys())
        top, left, bottom, right = map(np.asarray, boxes)
        side = np.sqrt(np.float32(1 - share))
        inside = (top > 0) & (left > 0) & (bottom < H) & (right < W)
        assert (bottom - top).max() <= int(H * side) and (right - left).max() <= int(W * side)
        assert (bottom - top)[inside].tolist() == [int(H * side)] * inside.sum()
        assert (top >= 0).all() and (bottom <= H).all() and (left >= 0).all() and (right <= W).all()


def test_probability_and_switch_are_shares():
    share = own_share(mixing(mixup=1.0, cutmix=1.0, probability=0.6, switch=0.3)(batch(), keys()))
    untouched = (share > 1 - 1e-5).all((1, 2))
    cut = np.ptp(share, axis=(1, 2)) > 0.5
    assert 12 < untouched.sum() < 40 and 3 < cut.sum() < 24
    untouched = mixing(mixup=1.0, probability=0.0)(batch(), keys())
    np.testing.assert_array_equal(untouched["image"], batch()["image"])
    np.testing.assert_array_equal(untouched["label"], np.eye(K)[:B])


def test_several_labels_and_weights_are_mixed_too():
    hot = np.random.default_rng(0).integers(0, 2, (B, K)).astype(np.float32)
    weight = np.arange(B, dtype=np.float32)
    mixed = mixing(**MIXES["both"])(batch(weight=weight) | {"label": hot, "id": weight}, keys())
    share = own_share(mixed).mean((1, 2))
    expected = share[:, None] * hot + (1 - share[:, None]) * np.roll(hot, 1, 0)
    np.testing.assert_allclose(mixed["label"], expected, atol=1e-4)
    np.testing.assert_allclose(mixed["weight"], share * weight + (1 - share) * np.roll(weight, 1), atol=1e-2)
    np.testing.assert_array_equal(mixed["id"], weight)


def test_a_row_depends_on_itself_the_row_before_and_its_key_alone():
    rng = np.random.default_rng(0)
    data = {"image": rng.normal(size=(B, H, W, 3)).astype(np.float32), "label": rng.integers(0, K, B)}
    mixed = mixing(**MIXES["both"])(data, keys())
    turned = mixing(**MIXES["both"])(jax.tree.map(lambda x: np.roll(x, 5, 0), data), jax.numpy.roll(keys(), 5))
    for column in ("image", "label"):
        np.testing.assert_allclose(turned[column], np.roll(mixed[column], 5, 0), atol=1e-6)
    other = {"image": data["image"].copy(), "label": data["label"]}
    other["image"][10] = 0
    changed = np.abs(mixing(**MIXES["both"])(other, keys())["image"] - mixed["image"]).max((1, 2, 3)) > 0
    assert set(np.flatnonzero(changed)) <= {10, 11}


def test_eight_devices_mix_as_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put((batch(), keys()), NamedSharding(mesh, PartitionSpec("data")))
    ours, whole = mixing(**MIXES["both"])(*placed), mixing(**MIXES["both"])(batch(), keys())
    for column in ("image", "label"):
        np.testing.assert_allclose(ours[column], whole[column], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"data\.mix needs mixup or cutmix"),
        ({"mixup": -0.2}, r"mix\.mixup = -0\.2 is the alpha"),
        ({"cutmix": 1.0, "probability": 1.5}, r"mix\.probability = 1\.5 is a share"),
        ({"cutmix": 1.0, "switch": -1.0}, r"mix\.switch = -1\.0 is a share"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        mix.make(**options, num_classes=K)
