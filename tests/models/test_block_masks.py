"""Block-wise masks hide as many patches as they promise, in blocks, by each example's key alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.models import masking

COUNTS = np.tile([1, 2, 7, 40, 98, 120], 16)


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


@functools.cache
def drawn() -> np.ndarray:
    masks = jax.jit(lambda keys, counts: masking.blocks(keys, counts, (14, 14)))(keys(len(COUNTS)), COUNTS)
    return np.asarray(masks)


def test_as_many_patches_are_hidden_as_promised():
    np.testing.assert_array_equal(drawn().sum(1), COUNTS)


@pytest.mark.parametrize("grid", [(1, 4), (2, 3), (4, 4), (16, 5)])
def test_grids_of_any_size(grid: tuple[int, int]):
    counts = np.arange(1, grid[0] * grid[1] + 1)
    masks = masking.blocks(keys(len(counts)), counts, grid)
    np.testing.assert_array_equal(masks.sum(1), counts)


def test_masks_are_blocks():
    """A hidden patch's right neighbour is hidden, too, far more often than among as many patches drawn one by one."""
    large = drawn()[COUNTS == 40].reshape(-1, 14, 14)
    together = large[:, :, :-1][large[:, :, 1:]].mean()
    assert together > 0.6 > 2 * 40 / 196


def test_every_patch_is_hidden_at_times_and_masks_differ():
    large = drawn()[COUNTS >= 98]
    assert large.any(0).all() and not large.all(0).any()
    assert len(np.unique(large, axis=0)) == len(large)


def test_a_mask_depends_on_its_own_key():
    counts = np.full(6, 5)
    whole = masking.blocks(keys(6), counts, (6, 6))
    np.testing.assert_array_equal(masking.blocks(keys(6)[3:], counts[3:], (6, 6)), whole[3:])


def test_numbers_of_what_is_hidden():
    masks = jnp.asarray([[False, True, False, True], [False, False, True, False]])
    places = masking.numbers(masks, 3)
    there = jnp.take_along_axis(masks, places, axis=1)
    np.testing.assert_array_equal(there, [[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(places, [[1, 3, 0], [2, 0, 1]])


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_views_that_are_masked(count: int, pairs: bool):
    masked, places, shares = masking.in_views(keys(32), 3, count, (6, 5), (0.1, 0.5), pairs)
    hidden = np.asarray(masked.sum(-1))
    assert masked.shape == (32, 3, 30) and places.shape == shares.shape == (
        (16, count * 18) if pairs else (32, count * 15)
    )
    np.testing.assert_array_equal((hidden > 0).sum(1), count)
    assert hidden[hidden > 0].min() >= 3 and hidden.max() <= 15 and len(np.unique(hidden[hidden > 0])) > 5
    assert set(np.nonzero(hidden)[1]) == {0, 1, 2}  # Each view at times.
    flat = np.asarray(masked).reshape(len(places), -1)
    for row, of_row in enumerate(hidden.reshape(len(places), -1)):
        there = np.asarray(shares[row]) > 0
        np.testing.assert_array_equal(np.sort(places[row][there]), np.nonzero(flat[row])[0])
        own = of_row[np.asarray(places[row][there]) // 30]
        np.testing.assert_allclose(shares[row][there], 1 / own / (32 * count), rtol=1e-5)
    assert np.asarray(shares).sum() == pytest.approx(1, rel=1e-5)


def test_neighbours_share_their_places():
    """Whatever the grid and the shares, two neighbours hide what there is room for, as uniformly as others do."""
    for grid, ratio in (((4, 4), (0.1, 0.5)), ((2, 2), (0.1, 0.5)), ((5, 3), (0.11, 0.5)), ((6, 5), (0.3, 0.3))):
        masked, places, shares = masking.in_views(keys(2000), 2, 1, grid, ratio, pairs=True)
        assert int((shares > 0).sum()) == int(masked.sum()) and places.shape[0] == 1000
    sizes = np.asarray(masking.in_views(keys(2000), 2, 1, (10, 10), (0.1, 0.5), pairs=True)[0].sum((1, 2)))
    assert set(sizes[::2] + sizes[1::2]) <= {59, 60}
    for half in (sizes[::2], sizes[1::2]):
        shares = np.bincount(half, minlength=51)[10:50] / len(half)
        assert abs(shares - 1 / 40).max() < 0.02
