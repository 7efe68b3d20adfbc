"""What SimMIM promises: exact masks of whole squares, whose pixels the encoder does not see; a loss of them alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import train_step
from vitfm.config import ConfigError
from vitfm.losses import reconstruction
from vitfm.models import masking
from vitfm.objectives import base, simmim

SIZE, SQUARE, BATCH = 24, 8, 8
COUNT = (SIZE // SQUARE) ** 2
HIDDEN = 6  # Six tenths of nine are 5.4.
MODEL = {"patch_size": 4, "hidden_dim": 32, "depth": 1, "num_heads": 2, "pool": "cls"}


@dataclasses.dataclass(frozen=True)
class Data:
    """The facts that the objective reads."""

    image_size: int = SIZE
    channels: int = 3


def made(**options: Any) -> base.Objective:
    return simmim.make(**{"model": MODEL, "mask_size": SQUARE, "data": Data(), **options})


@functools.cache
def objective() -> base.Objective:
    return made()


@functools.cache
def params() -> Any:
    shapes = jax.eval_shape(objective().init, jax.random.key(0), {"image": images()}).params
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)


def squares_of(images: Any) -> np.ndarray:
    """[..., H, W, C] -> [..., M, SQUARE*SQUARE*C]."""
    side = SIZE // SQUARE
    x = np.asarray(images).reshape(*np.shape(images)[:-3], side, SQUARE, side, SQUARE, 3)
    return np.moveaxis(x, -4, -3).reshape(*np.shape(images)[:-3], side**2, -1)


@functools.cache
def pictures() -> np.ndarray:
    return np.asarray(jax.jit(objective().predict["reconstruct"])(params(), images()))


def test_masks_have_their_count_and_fall_evenly_by_the_examples_keys():
    keys = jnp.concatenate([train_step.example_keys(0, jnp.int32(step), 400) for step in range(5)])
    noise = masking.noise(keys, COUNT)
    masked = np.asarray(masking.hidden(noise, COUNT - HIDDEN))
    np.testing.assert_array_equal(masked.sum(1), HIDDEN)
    np.testing.assert_allclose(masked.mean(0), HIDDEN / COUNT, atol=0.055)  # Five deviations of a share of 2000.
    ids = np.asarray(masking.split(noise, COUNT - HIDDEN)[1])
    assert np.take_along_axis(masked, ids, 1).all()  # The same as MAE's.


@pytest.mark.parametrize(("count", "ratio", "hidden"), [(49, 0.6, 30), (36, 0.6, 22), (100, 0.1, 10), (25, 0.6, 15)])
def test_what_is_hidden_is_rounded_up_as_in_the_authors_code(count: int, ratio: float, hidden: int):
    assert count - masking.visible(count, ratio) == hidden


def test_masks_of_pictures_are_whole_squares_and_depend_on_the_row_alone():
    original, seen, filled = squares_of(pictures()).swapaxes(0, 1)
    np.testing.assert_array_equal(pictures()[:, 0], images())
    masked = (seen == 0).all(-1)
    np.testing.assert_array_equal(masked.sum(1), HIDDEN)
    assert len(np.unique(masked, axis=0)) > 1
    np.testing.assert_array_equal(seen[~masked], original[~masked])
    np.testing.assert_array_equal(filled[~masked], original[~masked])
    assert np.abs(filled - original)[masked].max(-1).min() > 0.1
    again = jax.jit(objective().predict["reconstruct"])(params(), images()[::-1])
    np.testing.assert_array_equal(again[:, 1] == 0, pictures()[:, 1] == 0)


def test_the_encoder_sees_no_masked_pixel():
    """What it makes of the hidden ones stays when these change; it moves with the seen ones."""
    masked = (squares_of(pictures()[:, 1]) == 0).all(-1)
    seen = np.asarray(pictures()[:, 1])  # 0 where masked.
    again = jax.jit(objective().predict["reconstruct"])(params(), seen)
    np.testing.assert_array_equal(squares_of(again[:, 2])[masked], squares_of(pictures()[:, 2])[masked])
    other = jax.jit(objective().predict["reconstruct"])(params(), seen * 1.1)
    assert np.abs(squares_of(other[:, 2]) - squares_of(again[:, 2]))[masked].max() > 1e-3


def test_the_loss_is_of_the_examples_own_masks():
    loss = jax.jit(objective().loss)
    keys = [train_step.example_keys(0, jnp.int32(step), BATCH) for step in (7, 8)]
    found, other = (float(loss(params(), {}, {"image": images()}, own, jnp.int32(0))[0]) for own in keys)
    assert abs(found - other) > 1e-3
    assert found == pytest.approx(float(loss(params(), {}, {"image": images()}, keys[0], jnp.int32(9))[0]))


def test_the_error_is_the_mean_over_masked_pixels():
    rng = np.random.default_rng(0)
    predicted, patches = rng.normal(size=(2, 3, 5, 7)).astype(np.float32)
    masked = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 1], [0, 0, 0, 0, 1]], bool)
    expected = np.abs(predicted - patches)[masked].mean()
    assert float(reconstruction.masked_l1(predicted, patches, masked)) == pytest.approx(expected, rel=1e-6)


def test_targets_are_normalised_as_swin_v2_had_them():
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).normal(1, 2, size=(2, 12, 9, 3)).astype(np.float32)
    x = torch.from_numpy(image).permute(0, 3, 1, 2)
    pooled = lambda x, **options: torch.nn.functional.avg_pool2d(x, 5, 1, 2, **options)
    mean, square = (pooled(y, count_include_pad=False) for y in (x, x**2))
    count = pooled(torch.ones_like(x)) * 25
    deviation = ((square - mean**2) * count / (count - 1) + 1e-6).sqrt()
    for ours, expected in zip(reconstruction.local_statistics(image, 5), (mean, deviation), strict=True):
        np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


def test_normalised_targets_are_learned_and_shown():
    own = made(norm_window=5)
    mean, deviation = reconstruction.local_statistics(images(), 5)
    keys = train_step.example_keys(0, jnp.int32(7), BATCH)
    loss = lambda own, image: float(jax.jit(own.loss)(params(), {}, {"image": image}, keys, jnp.int32(0))[0])
    assert loss(own, images()) != pytest.approx(loss(objective(), images()), rel=1e-3)
    shown, plain = (np.asarray(jax.jit(o.predict["reconstruct"])(params(), images())) for o in (own, objective()))
    hidden = shown[:, 1] == 0
    expected = np.where(hidden, plain[:, 2] * np.asarray(deviation) + np.asarray(mean), images())
    np.testing.assert_allclose(shown[:, 2], expected, rtol=1e-5, atol=1e-5)


def test_it_offers_the_encoder_and_its_reconstructions():
    assert {"embed_image", "features", "attention", "reconstruct"} <= set(objective().predict)
    encoder = {"encoder": params()["encoder"]}  # The head may be thrown away.
    assert jax.jit(objective().predict["embed_image"])(encoder, images()).shape == (BATCH, 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_ratio": 0.0}, r"mask_ratio = 0\.0 leaves 9 of 9 squares"),
        ({"mask_ratio": 0.95}, r"mask_ratio = 0\.95 leaves 0 of 9 squares"),
        ({"norm_window": 4}, r"norm_window = 4 must be odd, and at least 3"),
        ({"mask_size": 6}, r"mask_size = 6 must be a multiple of the encoder's patch_size = 4"),
        ({"mask_size": 16}, r"mask_size = 16 .* divide config\.data\.image_size = 24"),
        ({"model": {"name": "resnet"}}, r"objective\.model\.(image_size|mask_token)"),
        ({"model": {"dept": 2}}, r"config\.objective\.model\.dept: did you mean 'depth'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)


def test_an_encoder_that_can_hide_nothing_is_refused():
    bare = made(model={**MODEL, "mask_token": False})
    keys = jax.eval_shape(lambda: train_step.example_keys(0, jnp.int32(0), BATCH))
    params = jax.eval_shape(bare.init, jax.random.key(0), {"image": images()}).params
    with pytest.raises(ConfigError, match="mask_token = True"):
        jax.eval_shape(bare.loss, params, {}, {"image": images()}, keys, jnp.int32(0))
