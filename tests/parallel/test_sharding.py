"""Where parameters live: rules, the axis that is split, and what cannot be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from vitfm.config import ConfigError
from vitfm.parallel import mesh, sharding


def leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def spec(shape: tuple[int, ...], fsdp: int = 8, rules: Any = sharding.DEFAULT_RULES) -> PartitionSpec:
    return sharding.shardings({"kernel": leaf(*shape)}, mesh.make(fsdp=fsdp), rules)["kernel"].spec


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 256), PartitionSpec(None, "fsdp")),
        ((256, 64), PartitionSpec("fsdp")),
        ((64, 3, 4, 16), PartitionSpec("fsdp")),
        ((64, 64), PartitionSpec("fsdp")),
        ((1000, 8), PartitionSpec("fsdp")),
        ((1001, 8), PartitionSpec(None, "fsdp")),  # Eight does not divide the longest.
        ((1001, 9), PartitionSpec()),
        ((63, 65), PartitionSpec()),
        ((64, 63), PartitionSpec()),  # 4032 elements: not worth it.
        ((4096,), PartitionSpec("fsdp")),
        ((), PartitionSpec()),
        ((2**20, 2**12), PartitionSpec("fsdp")),  # More elements than an int32 counts.
    ],
)
def test_the_longest_axis_that_divides_is_split(shape: tuple[int, ...], expected: PartitionSpec):
    assert spec(shape) == expected
    assert spec(shape, fsdp=1) == PartitionSpec()


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), max_size=4).map(tuple), st.sampled_from([1, 2, 4, 8]))
def test_what_is_split_divides(shape: tuple[int, ...], fsdp: int):
    placed = sharding.shardings({"kernel": leaf(*shape)}, mesh.make(fsdp=fsdp))["kernel"]
    split = [size for size, shard in zip(shape, placed.shard_shape(shape), strict=True) if size != shard]
    assert len(split) <= (fsdp > 1)
    assert all(size == max(n for n in shape if n % fsdp == 0) for size in split)


def test_rules_place_by_path():
    shapes = {"image": {"kernel": leaf(64, 128)}, "text": {"kernel": leaf(64, 128), "bias": leaf(8192)}}
    rules = [["text/kernel", ["data", None]], ("bias", "replicate"), (".*", "fsdp")]
    placed = sharding.shardings(shapes, mesh.make(fsdp=4), rules)
    assert placed["image"]["kernel"].spec == PartitionSpec(None, "fsdp")
    assert placed["text"]["kernel"].spec == PartitionSpec("data", None)
    assert placed["text"]["bias"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ("fdsp", r"config\.sharding places kernel by 'fdsp'; write 'fsdp', 'replicate'"),
        (("model", None), r"places kernel by \('model', None\); .* None or one of data, fsdp"),
        (("fsdp", None), r"splits kernel of shape \(6, 128\) by \('fsdp', None\) into \[4, 1\]"),
        ((None, None, "fsdp"), r"splits kernel of shape \(6, 128\) by"),
    ],
)
def test_placements_that_do_not_fit_are_refused(placement: Any, words: str):
    with pytest.raises(ConfigError, match=words):
        spec((6, 128), 4, [(".*", placement)])


def test_rules_that_cover_too_little_or_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"config\.sharding covers kernel"):
        spec((64, 128), rules=[("bias", "fsdp")])
    with pytest.raises(ConfigError, match=r"config\.sharding that cover nothing: 'bias'"):
        spec((64, 128), rules=[("bias", "fsdp"), (".*", "replicate")])
