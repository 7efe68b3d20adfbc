"""What a masked autoencoder promises: exact masks, an encoder that sees nothing hidden, examples that stay apart."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm import train_step, tree
from vitfm.config import ConfigError
from vitfm.losses import diagnostics, reconstruction
from vitfm.models import masking, stem, vit
from vitfm.objectives import base, mae

SIZE, PATCH, BATCH = 24, 4, 8
COUNT = (SIZE // PATCH) ** 2
MODEL = {"patch_size": PATCH, "hidden_dim": 32, "depth": 1, "num_heads": 2}
DECODER = {"hidden_dim": 16, "depth": 1, "num_heads": 2}


@dataclasses.dataclass(frozen=True)
class Data:
    """The facts that the objective reads."""

    image_size: int = SIZE
    channels: int = 3


def made(**options: Any) -> base.Objective:
    model, decoder = options.pop("model", {}), options.pop("decoder", {})
    return mae.make(**{"model": {**MODEL, **model}, "decoder": {**DECODER, **decoder}, "data": Data(), **options})


@functools.cache
def objective() -> base.Objective:
    return made()


def drawn(made: base.Objective) -> Any:
    """Parameters of numbers that are large enough for everything to matter."""
    shapes = jax.eval_shape(made.init, jax.random.key(0), {"image": images()}).params
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


@functools.cache
def params() -> Any:
    return drawn(objective())


def images(count: int = BATCH, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *size, 3)).astype(np.float32)


def noise_of(count: int = BATCH, patches: int = COUNT) -> np.ndarray:
    return np.random.default_rng(3).random((count, patches), np.float32)


def patches_of(images: Any, size: int = PATCH) -> np.ndarray:
    """[..., H, W, C] -> [..., N, size, size, C]."""
    images = np.asarray(images)
    lead, (height, width, channels) = images.shape[:-3], images.shape[-3:]
    x = images.reshape(*lead, height // size, size, width // size, size, channels)
    return np.moveaxis(x, -4, -3).reshape(*lead, -1, size, size, channels)


# Masks.


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_every_patch_is_either_seen_or_hidden(count: int, ratio: float, seed: int):
    visible = mae.Autoencoder(None, None, ratio, True).visible(count)
    assert visible <= count * (1 - ratio) + 1e-3 < visible + 1.01
    noise = np.random.default_rng(seed).random((3, count), np.float32)
    keep, hidden = (np.asarray(ids) for ids in masking.split(noise, visible))
    assert keep.shape == (3, visible)
    np.testing.assert_array_equal(np.sort(np.concatenate([keep, hidden], 1), axis=1), np.tile(np.arange(count), (3, 1)))
    for row in range(3):
        assert max(noise[row, keep[row]], default=0) <= min(noise[row, hidden[row]], default=1)


@pytest.mark.parametrize(("count", "ratio", "visible"), [(196, 0.75, 49), (64, 0.6, 25), (100, 0.9, 10), (25, 0.8, 5)])
def test_counts_are_exact(count: int, ratio: float, visible: int):
    assert mae.Autoencoder(None, None, ratio, True).visible(count) == visible


def test_masks_are_each_examples_and_steps_own_and_fall_evenly():
    keys = jnp.concatenate([train_step.example_keys(0, jnp.int32(step), 400) for step in range(5)])
    keep, _ = masking.split(masking.noise(keys, 64), 16)
    masks = np.zeros((2000, 64), bool)
    np.put_along_axis(masks, np.asarray(keep), True, axis=1)
    assert len(np.unique(masks, axis=0)) == 2000
    np.testing.assert_allclose(masks.mean(0), 0.25, atol=0.05)  # Five deviations of a share of 2000.
    together = np.corrcoef(masks.T)[np.triu_indices(64, 1)]
    np.testing.assert_allclose(together, -1 / 63, atol=0.13)  # Seen patches take places from one another, no more.


def test_masks_come_from_the_keys_of_the_examples():
    loss = jax.jit(objective().loss)
    keys = [train_step.example_keys(0, jnp.int32(step), BATCH) for step in (7, 8)]
    found, other = (float(loss(params(), {}, {"image": images()}, own, jnp.int32(0))[0]) for own in keys)
    masks = masking.noise(jax.vmap(lambda key: jax.random.split(key)[0])(keys[0]), COUNT)
    assert found == pytest.approx(float(loss_of(images(), masks)), rel=1e-5)
    assert abs(found - other) > 1e-3


@functools.cache
def autoencoder(norm_pix: bool = True) -> mae.Autoencoder:
    """That of `objective`, by its parts."""
    encoder = vit.make(**MODEL, image_size=SIZE, position="sincos", pool="cls")
    decoder = mae.models.make({"name": "mae_decoder", **DECODER}, where="", outputs=PATCH**2 * 3)
    return mae.Autoencoder(encoder, decoder, 0.75, norm_pix)


def loss_of(images: Any, noise: Any) -> jax.Array:
    return _loss()(params(), images, noise)[0]


@functools.cache
def _loss() -> Any:
    return jax.jit(autoencoder().loss)


# The encoder and the loss.


def test_the_encoder_sees_no_masked_pixel():
    keep, hidden = masking.split(noise_of(), COUNT // 4)
    weight = np.random.default_rng(4).normal(size=(BATCH, 1 + COUNT // 4, 32)).astype(np.float32)
    variables = {"params": params()["encoder"]}
    encode = lambda images: autoencoder().encoder.apply(variables, images, keep).tokens
    assert jax.eval_shape(encode, images()).shape == weight.shape  # Nor has it room for them.
    slopes = patches_of(jax.jit(jax.grad(lambda images: (encode(images) * weight).sum()))(images()))
    rows = np.arange(BATCH)[:, None]
    assert (slopes[rows, hidden] == 0).all()
    assert np.abs(slopes[rows, keep]).max((-3, -2, -1)).min() > 1e-4


def test_the_loss_is_of_masked_patches_alone():
    """A visible pixel moves the predictions, a hidden one the target; the two parts tell them apart."""
    rows, hidden = np.arange(BATCH)[:, None], masking.split(noise_of(), COUNT // 4)[1]
    predict = jax.jit(lambda *arguments: autoencoder()._predict(*arguments, None))
    predicted, ids, _ = predict(params(), images(), noise_of())
    np.testing.assert_array_equal(ids, hidden)
    target = patches_of(images())[rows, hidden].reshape(predicted.shape)
    expected = reconstruction.pixel_loss(predicted, target, norm_pix=True)
    assert float(loss_of(images(), noise_of())) == pytest.approx(float(expected), rel=1e-5)
    assert predicted.shape[1] == COUNT - COUNT // 4
    patches = patches_of(images())
    patches[rows, hidden] = 0
    blind = stem.assembled(patches.reshape(BATCH, COUNT, -1), images().shape, PATCH)
    np.testing.assert_array_equal(predict(params(), blind, noise_of())[0], predicted)


def test_the_rank_is_that_of_the_visible_patches_means():
    keep, _ = masking.split(noise_of(), COUNT // 4)
    tokens = jax.jit(autoencoder().encoder.apply)({"params": params()["encoder"]}, images(), keep).tokens
    metrics = _loss()(params(), images(), noise_of())[1]
    expected = jax.jit(diagnostics.effective_rank)(tokens[:, 1:].mean(1))
    assert float(metrics["effective_rank"]) == pytest.approx(float(expected), rel=1e-4)
    assert 1 < float(expected) <= BATCH


def test_accumulated_is_the_whole_batch():
    keys = train_step.example_keys(0, jnp.int32(0), BATCH)
    arguments = (params(), {}, {"image": images()}, keys, jnp.int32(0))
    keep = lambda batch, keys: batch
    whole, parts = (jax.jit(train_step.gradients_of(objective(), keep, n))(*arguments) for n in (1, 4))
    assert float(parts[0]) == pytest.approx(float(whole[0]), rel=1e-5)
    for (name, a), b in zip(tree.named_leaves(parts[2]), jax.tree.leaves(whole[2]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b), name
        assert np.abs(b).max() > 1e-7, name


def test_images_of_other_sizes_and_encoders_without_class_token():
    wide = images(2, (12, 32))
    found, _ = jax.jit(autoencoder().loss)(params(), wide, noise_of(2, 24))
    assert jnp.isfinite(found)
    averaged = made(model={"pool": "gap", "position": "learned"})
    shapes = jax.eval_shape(averaged.init, jax.random.key(0), {"image": images()}).params
    assert "class_token" not in shapes["encoder"]
    keys = jax.eval_shape(lambda: train_step.example_keys(0, jnp.int32(0), BATCH))
    assert jax.eval_shape(averaged.loss, shapes, {}, {"image": images()}, keys, jnp.int32(0))[0].shape == ()


def test_drop_path_has_draws_of_its_own():
    deep = {**MODEL, "depth": 2, "drop_path_rate": 0.9}
    dropping = dataclasses.replace(
        autoencoder(), encoder=vit.make(**deep, image_size=SIZE, position="sincos", pool="cls")
    )
    loss, own = jax.jit(dropping.loss), drawn(made(model=deep))
    keys = [train_step.example_keys(0, jnp.int32(step), BATCH) for step in range(2)]
    losses = [float(loss(own, images(), noise_of(), one)[0]) for one in keys]
    assert abs(losses[0] - losses[1]) > 1e-4


# Predictions.


def test_it_offers_the_encoder_and_its_reconstructions():
    assert set(objective().predict) == {"embed_image", "features", "patches", "attention", "reconstruct"}
    encoder = {"encoder": params()["encoder"]}  # The decoder may be thrown away.
    assert jax.jit(objective().predict["embed_image"])(encoder, images()).shape == (BATCH, 32)
    assert objective().accumulate == "mean"


@functools.cache
def reconstruct() -> Any:
    return jax.jit(objective().predict["reconstruct"])


@functools.cache
def reconstructed() -> np.ndarray:
    return np.asarray(reconstruct()(params(), images()))


def test_reconstructions_show_the_image_the_seen_and_the_guessed():
    found = reconstructed()
    assert found.shape == (BATCH, 3, SIZE, SIZE, 3)
    original, masked, filled = patches_of(found).swapaxes(0, 1)
    np.testing.assert_array_equal(found[:, 0], images())
    hidden = (masked == 0).all((-3, -2, -1))
    np.testing.assert_array_equal(hidden.sum(1), COUNT - COUNT // 4)
    np.testing.assert_array_equal(masked[~hidden], original[~hidden])
    np.testing.assert_array_equal(filled[~hidden], original[~hidden])
    assert np.abs(filled - original)[hidden].max((-3, -2, -1)).min() > 0.1
    assert len(np.unique(hidden, axis=0)) == BATCH


def test_masks_of_reconstructions_depend_on_the_row_alone():
    again = reconstruct()(params(), images()[::-1])
    np.testing.assert_array_equal(again[:, 1] == 0, reconstructed()[:, 1] == 0)


class Oracle:
    """A decoder that predicts its targets."""

    def __init__(self, targets: np.ndarray):
        self.targets = targets

    def apply(self, variables: Any, tokens: Any, keep: Any, hidden: Any, grid: Any) -> jax.Array:
        return jnp.take_along_axis(self.targets, hidden[..., None], axis=1)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_right_predictions_reconstruct_the_image(norm_pix: bool):
    targets = patches_of(images()).reshape(BATCH, COUNT, -1)
    if norm_pix:
        targets = (targets - targets.mean(-1, keepdims=True)) / np.sqrt(targets.var(-1, ddof=1, keepdims=True) + 1e-6)
    knowing = dataclasses.replace(autoencoder(norm_pix), decoder=Oracle(targets))
    anything = {"encoder": params()["encoder"], "decoder": {}}
    both = jax.jit(lambda *arguments: (knowing.reconstruct(*arguments), knowing.loss(*arguments)[0]))
    pictures, loss = both(anything, images(), noise_of())
    np.testing.assert_allclose(pictures[:, 2], images(), atol=1e-5)
    assert float(loss) < 1e-9


# Refusals.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_ratio": 0.99}, r"mask_ratio = 0\.99 leaves 0 of 36 patches"),
        ({"mask_ratio": 0.0}, r"mask_ratio = 0\.0 leaves 36 of 36 patches"),
        ({"mask_ratio": 1.5}, r"mask_ratio = 1\.5 leaves"),
        ({"model": {"dept": 2}}, r"config\.objective\.model\.dept: did you mean 'depth'"),
        ({"decoder": {"dept": 2}}, r"config\.objective\.decoder\.dept: did you mean 'depth'"),
        ({"decoder": {"outputs": 2}}, r"Unknown key config\.objective\.decoder\.outputs"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)


def test_a_stem_that_mixes_patches_is_refused():
    mixing = made(model={"stem": "conv", "patch_size": 8})
    with pytest.raises(ConfigError, match="stem = 'conv' mixes patches.*take 'patch', 'patch_conv' or 'hmlp'"):
        jax.eval_shape(mixing.init, jax.random.key(0), {"image": images()})
