"""What AIM promises: a patch is predicted from the prefix and what is before it; each example has its own prefix."""

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
from vitfm.models import aim_head, vit
from vitfm.objectives import aim, base

SIZE, PATCH = 16, 4
COUNT = (SIZE // PATCH) ** 2
MODEL = {"patch_size": PATCH, "hidden_dim": 32, "depth": 2, "num_heads": 2}
HEAD = {"hidden_dim": 16, "depth": 1}


@dataclasses.dataclass(frozen=True)
class Data:
    """The facts that the objective reads."""

    image_size: int = SIZE
    channels: int = 3


def made(**options: Any) -> base.Objective:
    return aim.make(**{"model": MODEL, "head": HEAD, "data": Data(), **options})


@functools.cache
def objective() -> base.Objective:
    return made()


@functools.cache
def predictor() -> aim.Predictor:
    """That of `objective`, by its parts."""
    return aim.Predictor(
        vit.make(**MODEL, **aim.PLAIN, image_size=SIZE), aim_head.make(outputs=PATCH**2 * 3, **HEAD), True
    )


@functools.cache
def params() -> Any:
    shapes = jax.eval_shape(objective().init, jax.random.key(0), {"image": images()}).params
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def images(batch: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, SIZE, SIZE, 3)).astype(np.float32)


def patches_of(images: Any) -> np.ndarray:
    """[..., H, W, C] -> [..., N, PATCH*PATCH*C]."""
    side = SIZE // PATCH
    x = np.asarray(images).reshape(*np.shape(images)[:-3], side, PATCH, side, PATCH, 3)
    return np.moveaxis(x, -4, -3).reshape(*np.shape(images)[:-3], side**2, -1)


@functools.cache
def slopes() -> Any:
    """Prefix [] -> [N-1,H,W,3], of a random functional of the prediction of each patch but the first by every pixel."""
    along = jnp.asarray(np.random.default_rng(4).normal(size=PATCH**2 * 3), jnp.float32)

    def of_one(prefix: jax.Array, index: jax.Array) -> jax.Array:
        predicted = lambda image: (predictor().predict(params(), image, prefix[None])[0, index] * along).sum()
        return jax.grad(predicted)(jnp.asarray(images(1)))[0]

    return jax.jit(jax.vmap(of_one, (None, 0)))


@pytest.mark.parametrize("prefix", [1, 6, COUNT - 1])
def test_a_prediction_depends_on_the_prefix_and_on_what_is_before_alone(prefix: int):
    found = np.abs(patches_of(slopes()(jnp.asarray(prefix), jnp.arange(COUNT - 1)))).max(-1)
    for k in range(1, COUNT):
        seen = max(k, prefix)
        assert (found[k - 1, seen:] == 0).all(), k
        assert found[k - 1, :seen].min() > 1e-5, k


def test_patches_of_the_prefix_are_not_predicted():
    """The loss is linear in each patch's error: only those after the prefix have any."""
    prefix = jnp.array([1, 7, COUNT - 1])
    _, grads = loss_of_wrong()(jnp.zeros((3, COUNT - 1)), prefix)
    np.testing.assert_array_equal(np.asarray(grads) != 0, np.arange(1, COUNT) >= np.asarray(prefix)[:, None])


class Wrong:
    """A head that predicts the normalised next patch, but for an offset [B,N-1]."""

    def __init__(self, offset: jax.Array):
        self.offset = offset

    def apply(self, variables: Any, tokens: Any, grid: Any) -> jax.Array:
        patches = patches_of(images(3)).astype(np.float64)
        patches = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
        shifted = jnp.asarray(patches[:, 1:], jnp.float32) + 1 + self.offset[..., None]
        return jnp.pad(shifted, ((0, 0), (0, 1), (0, 0)))


@functools.cache
def loss_of_wrong() -> Any:
    """(offset, prefix [B]) -> loss and its gradient by the offset."""

    def loss(offset: jax.Array, prefix: jax.Array) -> jax.Array:
        knowing = dataclasses.replace(predictor(), head=Wrong(offset))
        return knowing.loss({"encoder": params()["encoder"], "head": {}}, images(3), prefix)[0]

    return jax.jit(jax.value_and_grad(loss))


def test_the_loss_is_one_where_each_pixel_is_one_off_and_half_of_the_patches_are_predicted():
    prefix = jnp.array([COUNT // 2] * 3)
    assert float(loss_of_wrong()(jnp.zeros((3, COUNT - 1)), prefix)[0]) == pytest.approx(1, rel=1e-4)
    assert float(loss_of_wrong()(jnp.full((3, COUNT - 1), -1.0), prefix)[0]) < 1e-9


def test_every_length_of_a_prefix_is_alike_probable():
    keys = jnp.concatenate([train_step.example_keys(0, jnp.int32(step), 400) for step in range(5)])
    counts = np.bincount(aim.prefixes(keys, 9), minlength=9)
    assert counts[0] == 0 and len(counts) == 9
    np.testing.assert_allclose(counts[1:] / 2000, 1 / 8, atol=0.037)  # Five deviations.


def test_prefixes_come_from_the_keys_of_the_examples():
    keys = train_step.example_keys(0, jnp.int32(7), 8)
    found = jax.jit(objective().loss)(params(), {}, {"image": images()}, keys, jnp.int32(0))[0]
    prefix = aim.prefixes(jax.vmap(lambda key: jax.random.split(key)[0])(keys), COUNT)
    assert len(np.unique(prefix)) > 3
    assert float(found) == pytest.approx(float(jax.jit(predictor().loss)(params(), images(), prefix)[0]), rel=1e-5)


def test_attention_is_bidirectional_afterwards():
    """The first token moves with the last patch, where in training it does not."""
    tokens = lambda image, **options: (
        predictor().encoder.apply({"params": params()["encoder"]}, image, **options).tokens
    )
    changed = images(2)
    changed[:, -PATCH:, -PATCH:] += 1
    sees = aim.visible(jnp.array([1, 3]), COUNT)
    before, after = (jax.jit(functools.partial(tokens, attention_mask=sees))(x) for x in (images(2), changed))
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    before, after = (jax.jit(tokens)(x) for x in (images(2), changed))
    assert np.abs(before[:, 0] - after[:, 0]).max() > 1e-4
    embedded = jax.jit(objective().predict["embed_image"])({"encoder": params()["encoder"]}, images(2))
    np.testing.assert_allclose(embedded, before.mean(1), rtol=1e-4, atol=1e-5)
    assert {"embed_image", "features", "reconstruct"} <= set(objective().predict)


def test_reconstructions_show_the_image_the_prefix_and_what_is_guessed_after_it():
    found = np.asarray(jax.jit(objective().predict["reconstruct"])(params(), images()))
    original, seen, filled = patches_of(found).swapaxes(0, 1)
    hidden = (seen == 0).all(-1)
    prefix = hidden.argmax(1)
    assert len(np.unique(prefix)) > 3 and prefix.min() >= 1
    np.testing.assert_array_equal(hidden, np.arange(COUNT) >= prefix[:, None])
    np.testing.assert_array_equal(filled[~hidden], original[~hidden])
    np.testing.assert_array_equal(seen[~hidden], original[~hidden])
    assert np.abs(filled - original)[hidden].max(-1).min() > 0.05
    right = dataclasses.replace(predictor(), head=Wrong(-jnp.ones((3, COUNT - 1))))
    anything = {"encoder": params()["encoder"], "head": {}}
    pictures = jax.jit(right.reconstruct)(anything, images(3), jnp.array([1, 5, 9]))
    np.testing.assert_allclose(pictures[:, 2], images(3), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": {**MODEL, "pool": "cls"}}, "pool must be 'gap'"),
        ({"model": {**MODEL, "pool": "map"}}, "pool must be 'gap'"),
        ({"model": {**MODEL, "patch_size": 8, "stem": "conv"}}, "stem = 'conv' mixes"),
        ({"model": {**MODEL, "registers": 2}}, "without class_token, distillation_token and registers"),
        ({"model": {**MODEL, "patch_dropout": 0.5}}, "patch_dropout = 0.5 leaves patches out"),
        ({"model": {**MODEL, "patch_size": 16}}, r"patch_size = 16 leaves no next patch in images of 16 pixels"),
        ({"model": {"name": "swin"}}, r"config\.objective\.model\.name: .* a 'vit' only"),
        ({"head": {"dept": 2}}, r"config\.objective\.head\.dept: did you mean 'depth'"),
        ({"head": {"outputs": 2}}, r"Unknown key config\.objective\.head\.outputs"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)


def test_windows_and_a_mask_are_refused():
    windowed = made(model={**MODEL, "window_size": 2})
    params = jax.eval_shape(windowed.init, jax.random.key(0), {"image": images()}).params
    keys = jax.eval_shape(lambda: train_step.example_keys(0, jnp.int32(0), 8))
    with pytest.raises(ConfigError, match="window_size = None"):
        jax.eval_shape(windowed.loss, params, {}, {"image": images()}, keys, jnp.int32(0))
