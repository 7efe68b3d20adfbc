"""Padded patches of images of several shapes: positions as torch resizes them, and nothing depends on padding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.reference import relative_error, torch
from vitfm.config import ConfigError
from vitfm.data.facts import Facts
from vitfm.models import naflex, vit
from vitfm.models.stem import patches
from vitfm.objectives import supervised

SMALL: dict[str, Any] = {"image_size": 32, "patch_size": 8, "hidden_dim": 16, "depth": 2, "num_heads": 2}
NAFLEX = {**SMALL, "position_resize": "bilinear"}
GRIDS = [(1, 1), (4, 4), (7, 3), (2, 9), (13, 1), (5, 5), (3, 4), (16, 16)]


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def as_patches(image: np.ndarray, more: int = 0, noise: float = 0.0) -> dict[str, np.ndarray]:
    """A batch of one image [H,W,C] with padding behind its patches."""
    cut = np.asarray(patches(image[None], 8))
    flat = cut.reshape(1, -1, cut.shape[-1])
    padded = np.concatenate([flat, noise * np.ones((1, more, flat.shape[-1]), np.float32)], axis=1)
    mask = np.arange(padded.shape[1])[None] < flat.shape[1]
    return {"patches": padded, "mask": mask, "grid": np.array([cut.shape[1:3]], np.int32)}


def stacked(*batches: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


@pytest.mark.parametrize(("method", "mode"), [("bilinear", "bilinear"), ("antialiased", "bicubic")])
@pytest.mark.parametrize("table", [(4, 4), (6, 3), (16, 16)])
def test_positions_are_torchs_antialiased_resizing(method: str, mode: str, table: tuple[int, int]):
    """All grids in one batch, by one program.

    To a single column torch 2.13 repeats the first row on CPUs instead of interpolating, to a single row it is right:
    there it gets the table, and the grid, on their sides.
    """
    values, count = some(*table, 5), 300
    ours = jax.jit(naflex.positions, static_argnums=(2, 3))(values, jnp.array(GRIDS), count, method)
    pixels = torch.tensor(values).permute(2, 0, 1)[None]
    for found, grid in zip(ours, GRIDS, strict=True):
        turn = (lambda x: x.transpose(-1, -2)) if grid[1] == 1 else (lambda x: x)
        size = grid[::-1] if grid[1] == 1 else grid
        theirs = turn(torch.nn.functional.interpolate(turn(pixels), size=size, mode=mode, antialias=True))
        assert relative_error(found[: grid[0] * grid[1]], theirs[0].permute(1, 2, 0).reshape(-1, 5)) < 1e-5
    assert np.isfinite(ours).all()


@pytest.mark.parametrize("pool", ["map", "gap", "cls_gap"])
def test_padded_patches_give_what_each_image_alone_gives(pool: str):
    model = vit.make(**NAFLEX, pool=pool, registers=2)
    images = [some(24, 40, 3), some(32, 32, 3, seed=1), some(8, 16, 3, seed=2)]
    params = model.init(jax.random.key(0), images[0][None])
    params = jax.tree.map(lambda leaf: leaf + 0.1 * some(*leaf.shape, seed=3), params)
    batch = stacked(*(as_patches(x, 20 - x.size // 192, noise=50.0 * i) for i, x in enumerate(images)))
    together = jax.jit(lambda batch: model.apply(params, batch, last=2))(batch)
    assert together.grid == () and together.mask.shape == together.tokens.shape[:2]
    for row, image in enumerate(images):
        alone = model.apply(params, image[None], last=2)
        real = np.flatnonzero(together.mask[row])
        np.testing.assert_allclose(together.pooled[row], alone.pooled[0], atol=1e-5)
        np.testing.assert_allclose(together.tokens[row, real], alone.tokens[0], atol=1e-5)
        layers = jnp.stack(together.layers, 1)
        np.testing.assert_allclose(together.mean(layers)[row], alone.mean(jnp.stack(alone.layers, 1))[0], atol=1e-5)


def test_an_objective_learns_from_padded_patches_whatever_the_padding_holds():
    objective = supervised.make(model=NAFLEX, head_init="fan_in", data=Facts(32, 3, 0, 0, ("a", "b")))
    batch = lambda noise: {
        "image": stacked(as_patches(some(24, 40, 3), 2, noise), as_patches(some(32, 32, 3, seed=1), 1, noise)),
        "label": np.array([0, 1]),
    }
    params = objective.init(jax.random.key(0), batch(0.0)).params
    run = jax.jit(jax.value_and_grad(lambda params, batch: objective.loss(params, {}, batch, None, 0)[0]))
    (value, grads), (other, others) = run(params, batch(0.0)), run(params, batch(9.0))
    assert value == pytest.approx(float(other), rel=1e-6) and value > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, others)
    assert np.any(grads["encoder"]["position"])
    features = objective.predict["features"](params, batch(0.0)["image"])
    np.testing.assert_allclose(features, objective.predict["features"](params, batch(9.0)["image"]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "call", "words"),
    [
        ({"position": "rope"}, {}, "position = 'rope'"),
        ({"position": "sincos"}, {}, "position = 'sincos'"),
        ({"position_resize": "bicubic"}, {}, "position_resize = 'bicubic'"),
        ({"relative_position": "block"}, {}, "relative_position"),
        ({"stem": "conv"}, {}, "a stem other than 'patch'"),
        ({}, {"keep": np.zeros((1, 2), int)}, "hidden patches"),
        ({"patch_dropout": 0.5}, {"keys": jax.random.split(jax.random.key(0), 1)}, "patch_dropout"),
    ],
)
def test_what_needs_one_grid_a_batch_is_refused(options: dict[str, Any], call: dict[str, Any], words: str):
    model = vit.make(**{**NAFLEX, **options})
    params = model.init(jax.random.key(0), some(1, 32, 32, 3))
    with pytest.raises(ConfigError, match=words):
        model.apply(params, as_patches(some(24, 40, 3)), **call)


def test_other_dicts_are_refused():
    model = vit.make(**NAFLEX)
    with pytest.raises(ConfigError, match=r"'patches', 'mask' and 'grid', not grid, patches"):
        model.init(jax.random.key(0), {key: x for key, x in as_patches(some(8, 8, 3)).items() if key != "mask"})
