"""A shuffled order that is computed: each index once, another order for another seed, no matter how many there are."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitfm.data.permutation import permuted


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_every_index_comes_once(count: int, seed: int):
    assert sorted(permuted(np.arange(count), count, seed)) == list(range(count))


@given(st.integers(1, 10**12), st.data())
def test_a_position_has_its_index_whoever_asks(count: int, data: st.DataObject):
    positions = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=20)), np.int64)
    together = permuted(positions, count, 7)
    assert together.dtype == np.int64 and ((together >= 0) & (together < count)).all()
    assert together.tolist() == [permuted(positions[i : i + 1], count, 7)[0] for i in range(len(positions))]


def test_a_billion_cost_nothing():
    tracemalloc.start()
    found = permuted(np.arange(10**9 - 1000, 10**9), 10**9, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(found.tolist())) == 1000 and peak < 2**20


def test_orders_look_like_chance():
    count = 20_000
    one, other = (permuted(np.arange(count), count, seed) for seed in (0, 1))
    assert abs(np.corrcoef(one, np.arange(count))[0, 1]) < 0.03  # Four standard deviations.
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03 and abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.03
    assert (one == np.arange(count)).sum() < 10 and (one == other).sum() < 10
    firsts = np.bincount([permuted(np.arange(1), 5, seed)[0] for seed in range(2000)], minlength=5)
    assert (abs(firsts - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)).all()
    assert len({tuple(permuted(np.arange(4), 4, seed)) for seed in range(500)}) == 24


def test_the_order_is_this_for_ever():
    """Shards that were begun with it are gone on with."""
    assert permuted(np.arange(10), 10, 0).tolist() == [7, 5, 8, 1, 3, 0, 9, 6, 2, 4]
    assert permuted(np.arange(3), 10**9, 5).tolist() == [814756997, 407853776, 775956321]
