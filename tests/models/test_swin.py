"""Swin: its windows, masks, relative positions and sizes. That it equals its references is tests/parity/families."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiers
from tests.parity.families import swin as family
from tests.parity.families import swinv2 as family_v2
from tests.parity.family import Pair
from tests.parity.reference import relative_error, torch
from vitfm import models
from vitfm.config import ConfigError
from vitfm.models import swin, windows

SMALL: dict[str, Any] = {
    "image_size": 32,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
    "mlp_ratio": 2.0,
}


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def made(**options: Any) -> tuple[swin.Swin, Any]:
    """A model whose parameters are all far from where they start."""
    model = swin.make(**{**SMALL, **options})
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    noise = lambda leaf: leaf + 0.2 * np.random.default_rng(leaf.size).normal(size=leaf.shape).astype(np.float32)
    return model, jax.tree.map(noise, params)


# Windows.


@pytest.mark.parametrize("window", [(2, 3), (4, 1), (4, 6)])
def test_windows_are_cut_row_by_row_and_joined_again(window: tuple[int, int]):
    x = some(2, 4, 6, 5)
    rows, columns = window
    cut = windows.cut(x, window).reshape(2, 4 // rows, 6 // columns, rows, columns, 5)
    for row, column in np.ndindex(cut.shape[1:3]):
        expected = x[:, row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
        np.testing.assert_array_equal(cut[:, row, column], expected)
    np.testing.assert_array_equal(windows.join(windows.cut(x, window), (4, 6), window), x)


@pytest.mark.parametrize(("window", "shift"), [((4, 4), (2, 2)), ((4, 2), (1, 0)), ((8, 2), (0, 1))])
def test_strangers_came_from_opposite_sides(window: tuple[int, int], shift: tuple[int, int]):
    grid = (8, 12)
    row, column = np.meshgrid(*map(np.arange, grid), indexing="ij")
    rolled = np.roll(np.stack([row, column], -1), (-shift[0], -shift[1]), (0, 1))
    carried = np.stack([rolled[..., 0] < row, rolled[..., 1] < column], -1)  # From the first rows or columns.
    carried = np.asarray(windows.cut(carried[None], window)).reshape(-1, math.prod(window), 2)
    expected = (carried[:, :, None] != carried[:, None]).any(-1)
    np.testing.assert_array_equal(windows.strangers(grid, window, shift), expected)


@pytest.mark.parametrize("window", [(1, 1), (3, 3), (2, 4)])
def test_relative_positions_without_gathering(window: tuple[int, int]):
    rows, columns = window
    table = some(2 * rows - 1, 2 * columns - 1, 3)
    bias = windows.relative(table)
    tokens = [(row, column) for row in range(rows) for column in range(columns)]
    for q, query in enumerate(tokens):
        for k, key in enumerate(tokens):
            at = (query[0] - key[0] + rows - 1, query[1] - key[1] + columns - 1)
            np.testing.assert_array_equal(bias[:, q, k], table[at])
    text = str(jax.make_jaxpr(jax.grad(lambda table: windows.relative(table).sum()))(table))
    assert "gather" not in text and "scatter" not in text


def test_log_spaced_coordinates():
    table = windows.log_coordinates((8, 8), (8, 8))
    assert table.shape == (15, 15, 2)
    np.testing.assert_allclose(table[7, 7], 0)
    np.testing.assert_allclose(table[-1, 0], [np.log2(9) / 3, -np.log2(9) / 3], rtol=1e-6)
    larger = windows.log_coordinates((16, 16), (8, 8))  # What both windows have, they have alike.
    np.testing.assert_array_equal(larger[8:-8, 8:-8], table)
    assert np.isfinite(windows.log_coordinates((1, 1), (1, 1))).all()


# Models.

MILLIONS = {"T": 28.29, "S": 49.61, "B": 87.77, "L": 196.53, "V2-T": 28.35, "V2-S": 49.73, "V2-B": 87.92}


@pytest.mark.parametrize("name", MILLIONS)
def test_published_sizes(name: str):
    """Parameters in millions, with a head for 1,000 classes, as timm lists them."""
    model = swin.make(**swin.SIZES[name], image_size=256 if "V2" in name else 224)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) + 1000 * (model.hidden_dim + 1)
    assert round(count / 1e6, 2) == MILLIONS[name]


SIZED = list(itertools.product((1, 2), ("image_size", "input"), ("before_shift", "after_shift")))


@pytest.mark.parametrize("options", tiers.slow_unless([SIZED[0], SIZED[-1]].__contains__, SIZED), ids=str)
def test_any_size_of_image(options: tuple[int, str, str]):
    version, fit, pad = options
    model, params = made(version=version, fit=fit, pad=pad, position="learned")
    for height, width in ((32, 32), (41, 64), (8, 20)):
        features = jax.eval_shape(lambda x: model.apply(params, x, last=2), some(2, height, width, 3))
        grid = (-(-height // 8), -(-width // 8))
        assert (features.grid, features.prefix) == (grid, 0)
        assert features.tokens.shape == (2, grid[0] * grid[1], 32)
        assert features.pooled.shape == (2, model.hidden_dim) == (2, 32)
        assert [layer.shape for layer in features.layers] == [features.tokens.shape] * model.depth
    features = jax.jit(model.apply)(params, some(2, 12, 36, 3))
    assert np.isfinite(features.tokens).all()
    np.testing.assert_allclose(features.pooled, features.tokens.mean(1), atol=1e-6)


@pytest.mark.parametrize("version", tiers.slow_unless((2).__eq__, [1, 2]))
def test_no_example_depends_on_its_batch_and_drop_path_has_keys_of_its_own(version: int):
    model, params = made(version=version, drop_path_rate=0.5)
    images, keys = some(3, 32, 32, 3), jax.random.split(jax.random.key(1), 3)
    train = jax.jit(lambda x, keys: model.apply(params, x, keys=keys).pooled)
    together = train(images, keys)
    np.testing.assert_allclose(together[1:2], train(images[1:2], keys[1:2]), atol=1e-5)
    plain = jax.jit(model.apply)(params, images).pooled
    assert np.abs(together - plain).max() > 1e-3
    assert np.abs(plain[0] - plain[1]).max() > 1e-3


def test_v2_begins_as_the_identity():
    model = swin.make(**SMALL, version=2)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    outputs = model.apply({"params": params}, some(1, 32, 32, 3), last=2).layers
    np.testing.assert_array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize("version", tiers.slow_unless((2).__eq__, [1, 2]))
def test_rematerialised_blocks_have_the_same_gradients(version: int):
    grads = []
    for remat in (False, True):
        model, params = made(version=version, remat=remat)
        grads.append(jax.jit(jax.grad(lambda p, model=model: model.apply(p, some(1, 32, 32, 3)).tokens.sum()))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *grads)


@pytest.mark.parametrize("version", tiers.slow_unless((2).__eq__, [1, 2]))
def test_bfloat16_is_near_float32(version: int):
    model, params = made(version=version)
    images = some(2, 32, 32, 3)
    low = jax.jit(swin.make(**SMALL, version=version, dtype=jnp.bfloat16).apply)(params, images).tokens
    assert low.dtype == jnp.bfloat16
    assert relative_error(low.astype(jnp.float32), jax.jit(model.apply)(params, images).tokens) < 0.05


MASKED = [case for cases in (family.CASES, family_v2.CASES) for case in cases if "masked" in case.name]


@pytest.mark.parametrize("case", MASKED, ids=str)
def test_masked_patches_are_those_of_transformers(case: Any):
    with jax.default_matmul_precision("highest"):
        both = Pair(case)
        masked = np.random.default_rng(0).random((2, 64)) < 0.5
        encoder = getattr(both.theirs, case.family)
        theirs = encoder(both.pixels, bool_masked_pos=torch.tensor(masked)).last_hidden_state
        tower = models.make(both.spec["model"], where="objective.model")
        ours = tower.apply({"params": both.ours()["params"]["encoder"]}, both.image, masked=masked).tokens
        assert relative_error(ours, theirs) < 1e-5
        assert relative_error(both.outputs(both.ours(), ["tokens"])["tokens"], theirs) > 0.1


def test_what_windows_cannot_do_is_refused():
    model, params = made()
    with pytest.raises(ConfigError, match="no patch can be left out"):
        model.apply(params, some(1, 32, 32, 3), keep=jnp.zeros((1, 4), int))
    with pytest.raises(ConfigError, match="set mask_token = True"):
        model.apply(params, some(1, 32, 32, 3), masked=jnp.zeros((1, 64), bool))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": (2,)}, "num_heads = .*each of the 2 stages"),
        ({"window_size": (4, 4, 4)}, "window_size = .*each of the 2 stages"),
        ({"num_heads": (2, 5)}, "stage 1 is 32 wide.*num_heads = 5"),
        ({"depths": (2, 0)}, "depths = .*at least one block"),
        ({"window_size": 0}, "window_size = 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate = 1.0"),
    ],
)
def test_sizes_that_do_not_go_together(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        swin.make(**{**SMALL, **options})
