"""The mesh: its sizes, what it refuses, and where batches go. The tests' eight devices are virtual."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.parallel import mesh


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [({}, (8, 1)), ({"fsdp": 8}, (1, 8)), ({"fsdp": 4}, (2, 4)), ({"data": 2, "fsdp": -1}, (2, 4))]
    + [({"data": 4, "fsdp": 2}, (4, 2)), ({"data": 8}, (8, 1)), ({"data": 1, "fsdp": -1}, (1, 8))],
)
def test_sizes_fill_the_devices(sizes: dict[str, int], shape: tuple[int, int]):
    made = mesh.make(**sizes)
    assert dict(made.shape) == {"data": shape[0], "fsdp": shape[1]}
    assert {device.id for device in made.devices.flat} == set(range(8))


UNFIT = [{"data": 3}, {"data": 3, "fsdp": -1}, {"fsdp": 3}, {"data": 16, "fsdp": -1}, {"data": 2, "fsdp": 2}]
UNFIT += [{"data": -1, "fsdp": -1}, {"data": 0}, {"data": -1, "fsdp": 0}, {"data": -8, "fsdp": -1}]
UNFIT += [{"data": -2, "fsdp": -4}]


@pytest.mark.parametrize("sizes", UNFIT)
def test_sizes_that_do_not_are_refused(sizes: dict[str, int]):
    both = {"data": -1, "fsdp": 1} | sizes
    words = f"config.mesh: data = {both['data']} x fsdp = {both['fsdp']} does not make 8 devices"
    with pytest.raises(ConfigError, match=re.escape(words)):
        mesh.make(**sizes)


@pytest.mark.parametrize("fsdp", [1, 4, 8])
def test_batches_are_split_over_every_device(fsdp: int):
    made = mesh.make(fsdp=fsdp)
    batch = {"image": np.arange(48.0).reshape(16, 3), "valid": np.arange(16) % 2 == 0}
    for place in (mesh.place_local, mesh.place_global):
        placed = place(made, batch)
        jax.tree.map(np.testing.assert_array_equal, placed, batch)
        for name, array in placed.items():
            assert array.sharding == mesh.batch_sharding(made)
            for shard in array.addressable_shards:
                assert shard.data.shape[0] == 2
                np.testing.assert_array_equal(shard.data, batch[name][shard.index])


def test_replicated_is_whole_everywhere():
    array = jax.device_put(np.arange(6), mesh.replicated(mesh.make(fsdp=2)))
    assert [shard.data.shape for shard in array.addressable_shards] == [(6,)] * 8


@given(st.integers(1, 500), st.integers(1, 6))
def test_batches_that_do_not_split_are_refused_with_the_nearest_that_do(batch_size: int, accumulate: int):
    if batch_size % (8 * accumulate) == 0:
        mesh.check_batch(batch_size, accumulate)
        return
    with pytest.raises(ConfigError, match=rf"config\.batch_size = {batch_size} .* 8 devices") as error:
        mesh.check_batch(batch_size, accumulate)
    assert ("micro-batches" in str(error.value)) == (accumulate > 1)
    offered = [int(n) for n in re.findall(r"\d+", str(error.value).partition("take ")[2])]
    assert len({*offered}) == len(offered) == (2 if batch_size > 8 * accumulate else 1)
    for size in offered:
        assert size > 0
        assert abs(size - batch_size) < 8 * accumulate
        mesh.check_batch(size, accumulate)
