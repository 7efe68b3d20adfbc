"""The vision transformer: its patches, its positions, its sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.config import ConfigError
from vitfm.models import stem as stems
from vitfm.models import vit
from vitfm.models.position import resize_position
from vitfm.models.vision_transformer import ViT

SMALL: dict[str, Any] = {"image_size": 32, "patch_size": 8, "hidden_dim": 16, "depth": 1, "num_heads": 2}


def made(**options: Any) -> tuple[ViT, Any]:
    model = vit.make(**{**SMALL, **options})
    size = model.image_size
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))


def some_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_patches_are_row_major_in_the_image_and_in_the_patch():
    images = some_images(2, 12, 20, 3)
    patches = stems.patches(images, 4)
    assert patches.shape == (2, 3, 5, 48)
    for row, column in np.ndindex(3, 5):
        expected = images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(2, -1)
        np.testing.assert_array_equal(patches[:, row, column], expected)


def test_positions_are_left_alone_on_their_own_grid_and_smooth_on_others():
    position = jnp.asarray(some_images(4, 4, 3))
    assert resize_position(position, (4, 4)) is position
    flat = jnp.full((4, 4, 3), 0.7)
    for grid in ((2, 3), (9, 1), (5, 8)):
        np.testing.assert_allclose(resize_position(flat, grid), np.full((*grid, 3), 0.7), rtol=1e-5)
    ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 4, 1))
    resized = resize_position(ramp, (8, 3))
    assert (np.diff(resized[..., 0], axis=0) > 0).all()  # Rows stay rows.
    np.testing.assert_allclose(np.diff(resized[..., 0], axis=1), 0, atol=1e-5)


@pytest.mark.parametrize("stem", ["patch", "conv", "patch_conv", "hmlp"])
@pytest.mark.parametrize("pool", ["cls", "gap"])
def test_any_size_of_image(stem: str, pool: str):
    model, params = made(stem=stem, pool=pool)
    prefix = int(pool == "cls")
    for height, width in ((32, 32), (40, 8)):
        features = jax.eval_shape(model.apply, params, some_images(2, height, width, 3))
        assert (features.grid, features.prefix) == ((height // 8, width // 8), prefix)
        assert features.tokens.shape == (2, prefix + height * width // 64, 16)
    features = jax.jit(model.apply)(params, some_images(2, 16, 48, 3))
    assert features.grid == (2, 6)
    pooled = features.tokens[:, 0] if pool == "cls" else features.tokens.mean(1)
    np.testing.assert_allclose(features.pooled, pooled, atol=1e-6)
    assert np.isfinite(features.tokens).all()


@pytest.mark.parametrize("stem", ["patch", "conv", "patch_conv", "hmlp"])
def test_a_masked_patch_is_not_seen(stem: str):
    """Nor by its neighbours: the tokens do not move with it, and do with others."""
    model, params = made(stem=stem, mask_token=True)
    masked = np.zeros((2, 16), bool)
    masked[0, 5] = masked[1, :7] = True

    def tokens(images: np.ndarray) -> np.ndarray:
        return np.asarray(jax.jit(model.apply)(params, images, masked=masked).tokens)

    images, other = some_images(2, 32, 32, 3), -some_images(2, 32, 32, 3)
    hidden = masked.reshape(2, 4, 4).repeat(8, 1).repeat(8, 2)[..., None]
    np.testing.assert_array_equal(tokens(np.where(hidden, other, images)), tokens(images))
    assert np.abs(tokens(np.where(hidden, images, other)) - tokens(images)).max() > 1e-3


@pytest.mark.parametrize("stem", ["patch", "conv", "patch_conv", "hmlp"])
def test_no_example_depends_on_its_batch(stem: str):
    model, params = made(stem=stem)
    images, apply = some_images(3, 32, 32, 3), jax.jit(model.apply)
    together, alone = apply(params, images), apply(params, images[1:2])
    np.testing.assert_allclose(together.tokens[1], alone.tokens[0], atol=1e-5)
    assert np.abs(together.pooled[1] - together.pooled[0]).max() > 1e-3


def test_position_tells_where_a_patch_is():
    model, params = made()
    images = np.zeros((1, 32, 32, 3), np.float32)
    tokens = jax.jit(model.apply)(params, images).tokens[0]
    assert np.abs(tokens[1:] - tokens[:-1]).max(1).min() > 1e-3


def test_options_change_the_parameters_they_name():
    def names(**options: Any) -> set[str]:
        model = vit.make(**{**SMALL, **options})
        params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
        return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)}

    plain = names()
    assert names(pool="cls") - plain == {"class_token"}
    assert names(pool="cls", class_position=True) - plain == {"class_token", "class_position"}
    assert names(pre_norm=True) - plain == {"pre_norm/scale", "pre_norm/bias"}
    assert plain - names(stem_bias=False) == {"stem/patch/bias"}
    assert {name.split("/")[1] for name in names(stem="conv") - plain} == {"patches", "norm_0", "conv_0_kernel"}


def test_convolutions_within_patches_are_those_of_each_alone():
    conv, apart = (kind(16, 24, jnp.float32) for kind in (stems.ConvStem, stems.PatchConvStem))
    images = some_images(2, 32, 48, 3)
    params = conv.init(jax.random.key(0), images)
    patches = images.reshape(2, 2, 16, 3, 16, 3).swapaxes(2, 3)  # [B,h,w,p,p,C]
    expected = jax.jit(conv.apply)(params, patches.reshape(12, 16, 16, 3)).reshape(2, 2, 3, 24)
    np.testing.assert_allclose(jax.jit(apart.apply)(params, images), expected, atol=1e-5)
    assert np.abs(jax.jit(conv.apply)(params, images) - expected).max() > 0.1  # Which see beyond the edge.
    keep = np.array([[5, 0], [3, 4]])
    kept = np.take_along_axis(np.asarray(expected).reshape(2, -1, 24), keep[..., None], axis=1)
    np.testing.assert_allclose(jax.jit(apart.apply)(params, images, keep), kept, atol=1e-5)


def test_the_hierarchical_stem_is_its_convolutions():
    torch = pytest.importorskip("torch")
    stem = stems.HierarchicalStem(16, 24, jnp.float32)
    images = some_images(2, 32, 48, 3)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(stem.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    for stage, side in enumerate((4, 2, 2)):
        linear, norm = params[f"patches_{stage}"]["patch"], params[f"norm_{stage}"]
        kernel = torch.from_numpy(linear["kernel"]).reshape(side, side, x.shape[1], -1).permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(x, kernel, torch.from_numpy(linear["bias"]), stride=side).permute(0, 2, 3, 1)
        scale, bias = (torch.from_numpy(norm[name]) for name in ("scale", "bias"))
        x = torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias, 1e-6).permute(0, 3, 1, 2)
        x = x if stage == 2 else torch.nn.functional.gelu(x)
    found = jax.jit(stem.apply)({"params": params}, images)
    np.testing.assert_allclose(found, x.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    keep = np.array([[5, 0], [3, 4]])
    kept = jax.jit(stem.apply)({"params": params}, images, keep)
    expected = np.take_along_axis(np.asarray(found).reshape(2, -1, 24), keep[..., None], axis=1)
    np.testing.assert_allclose(kept, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 12, 5), (1, 2, 4, 3)])
def test_convolution_as_a_product_is_the_convolution(shape: tuple[int, ...]):
    x, kernel = some_images(*shape), some_images(3, 3, shape[-1], 4)
    weight = some_images(shape[0], shape[1] // 2, shape[2] // 2, 4)

    def gradients(convolve: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
        return convolve(x, kernel), *jax.grad(lambda *a: (convolve(*a) * weight).sum(), (0, 1))(x, kernel)

    for ours, plain in zip(gradients(stems._convolve_as_product), gradients(stems._convolve), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32():
    model, params = made(pool="cls", pre_norm=True)
    images = some_images(2, 32, 32, 3)
    low = jax.jit(vit.make(**SMALL, pool="cls", pre_norm=True, dtype=jnp.bfloat16).apply)(params, images).pooled
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), jax.jit(model.apply)(params, images).pooled, atol=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_dim": 20, "num_heads": 3}, "hidden_dim = 20.*num_heads = 3"),
        ({"image_size": 36}, "image_size = 36.*patches of 8"),
        ({"stem": "conv", "patch_size": 6, "image_size": 12}, "patch_size = 6 is not 8, 16"),
        ({"stem": "hmlp", "patch_size": 12, "image_size": 24}, "stem = 'hmlp' .* patch_size = 12 is not 8, 16"),
        ({"stem": "hmlp", "hidden_dim": 18, "patch_size": 8}, "hidden_dim = 18 must be a multiple of 4"),
        ({"stem": "conv", "patch_size": 4}, "patch_size = 4 is not 8, 16"),
        ({"stem": "conv", "patch_size": 16, "hidden_dim": 18}, "hidden_dim = 18, which 4 must divide"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        vit.make(**{**SMALL, **options})


@pytest.mark.parametrize(("stem", "patch"), [("patch", 8), ("conv", 8), ("patch_conv", 8), ("hmlp", 8)])
def test_images_that_the_patches_do_not_divide_are_refused(stem: str, patch: int):
    model = vit.make(**SMALL, stem=stem)
    with pytest.raises(ConfigError, match=f"32 x 36 do not divide into patches of {patch}"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 36, 3)))
