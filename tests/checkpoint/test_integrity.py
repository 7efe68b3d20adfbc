"""The hash depends on every bit, the shape and the dtype of a leaf, and on nothing else."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from vitfm.checkpoint import integrity

DTYPES = ["bool", "int4", "uint8", "int16", "int32", "uint32", "float8_e4m3fn", "float16", "bfloat16", "float32"]


def one(array: object) -> str:
    return integrity.hashes({"x": array})["x"]


def meshes() -> list[Mesh]:
    devices = np.array(jax.devices())
    return [Mesh(devices.reshape(8, 1), ("a", "b")), Mesh(devices.reshape(2, 4), ("a", "b"))]


def random_bits(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    whole = {"bool": (0, 2), "int4": (-8, 8), "uint4": (0, 16)}
    if dtype in whole:
        return rng.integers(*whole[dtype], shape).astype(np.dtype(dtype))
    return rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]


def test_names_are_key_paths():
    tree = {"image": {"encoder": [jnp.ones(2), jnp.zeros(3)]}, "none": None, "empty": {}}
    hashes = integrity.hashes(tree)
    assert list(hashes) == ["image/encoder/0", "image/encoder/1"]
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in hashes.values())


@pytest.mark.parametrize("small", [2**20, -1])
def test_the_format_is_fixed(small: int, monkeypatch: pytest.MonkeyPatch):
    """Changing the function would make every checkpoint written before unreadable."""
    monkeypatch.setattr(integrity, "_SMALL", small)
    assert one(jnp.arange(6, dtype=jnp.float32).reshape(2, 3)) == "dd09bf053c28e218"


def test_equals_a_plain_numpy_loop():
    def mix(x: int, first: int, factor: int, second: int, other_factor: int, third: int) -> int:
        x = ((x ^ (x >> first)) * factor) % 2**32
        x = ((x ^ (x >> second)) * other_factor) % 2**32
        return x ^ (x >> third)

    array = random_bits("float32", (3, 5))
    lanes = []
    for lane, bijection in enumerate(integrity._BIJECTIONS):
        seed = integrity.zlib.crc32(b"float32[3, 5]", lane)
        total = seed
        for index, word in np.ndenumerate(array.view(np.uint32)):
            key = seed
            for i in index:
                key = mix((key + i * integrity._GOLDEN) % 2**32, *bijection)
            total += mix(int(word) ^ key, *bijection)
        lanes.append(f"{total % 2**32:08x}")
    assert one(array) == "".join(lanes)


@pytest.mark.parametrize("dtype", [*DTYPES, "uint4", "complex64"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 2), (0, 4)])
def test_numpy_and_xla_agree(dtype: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    array = jnp.asarray(random_bits(dtype, shape))
    expected = [one(array), one(np.asarray(array)), one(jax.device_put(array, NamedSharding(meshes()[0], P())))]
    monkeypatch.setattr(integrity, "_SMALL", -1)
    assert expected == [one(array), one(np.asarray(array)), one(array)]


def test_64_bits_are_what_a_jit_makes_of_them(monkeypatch: pytest.MonkeyPatch):
    arrays = [np.float64([1 / 3, 2]), np.int64([2**40 + 5, 7]), np.arange(6.0).reshape(2, 3).T, 0.5, 3]
    expected = [one(array) for array in arrays]
    with jax.enable_x64(True):
        expected += [one(array) for array in arrays[:3]]
    monkeypatch.setattr(integrity, "_SMALL", -1)
    found = [one(array) for array in arrays]
    with jax.enable_x64(True):
        found += [one(array) for array in arrays[:3]]
    assert found == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_sharding_does_not_matter(dtype: str):
    array = random_bits(dtype, (16, 8))
    shardings = [SingleDeviceSharding(jax.devices()[3])]
    for mesh in meshes():
        for spec in ((), ("a",), ("a", "b"), (("a", "b"),)):
            shardings.append(NamedSharding(mesh, P(*spec)))
    assert {one(jax.device_put(array, sharding)) for sharding in shardings} == {one(array)}


def test_sharding_does_not_matter_for_keys():
    keys = jax.random.split(jax.random.key(1), 8)
    sharded = [jax.device_put(keys, NamedSharding(mesh, P("a"))) for mesh in meshes()]
    assert {one(array) for array in sharded} == {one(keys)}


def test_explicit_meshes_work():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Explicit,))
    array = random_bits("float32", (16, 8))
    assert one(jax.device_put(array, NamedSharding(mesh, P("a")))) == one(array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_of_every_dtype_counts(dtype: str):
    array = np.zeros((2, 3), np.dtype(dtype))
    seen = {one(array)}
    for index in np.ndindex(array.shape):
        changed = array.copy()
        changed[index] = 1
        seen.add(one(changed))
    assert len(seen) == 7


def test_64_bits_and_complex():
    with jax.enable_x64(True):
        for dtype in ("float64", "int64", "complex64", "complex128"):
            array = random_bits(dtype, (5,))
            raw = array.view(np.uint8).copy()
            for byte in range(raw.size):
                raw[byte] ^= 1
                assert one(raw.view(dtype)) != one(array)
                raw[byte] ^= 1
            assert one(raw.view(dtype)) == one(array)


def test_keys_differ():
    keys = [jax.random.key(0), jax.random.key(1), jax.random.key(0, impl="rbg"), jax.random.key_data(jax.random.key(0))]
    assert len({one(key) for key in keys}) == 4


def test_shape_dtype_and_order_count():
    array = np.arange(1, 7, dtype=np.int32)
    variants = [array, array.reshape(2, 3), array.reshape(3, 2), array[::-1], array.astype(np.uint32), array[:, None]]
    empty = [np.zeros((0,), np.int32), np.zeros((0, 2), np.int32), np.zeros((0,), np.float32), np.zeros((), np.int32)]
    assert len({one(x) for x in variants + empty}) == len(variants + empty)


def test_negative_zero_and_nan_payloads_count():
    bits = np.array([0, 0x80000000, 0x7FC00000, 0x7FC00001, 0x7F800001], np.uint32)
    assert len({one(bits[i : i + 1].view(np.float32)) for i in range(5)}) == 5


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    data=st.binary(min_size=96, max_size=96),
    dtype=st.sampled_from([np.uint8, np.float16, ml_dtypes.bfloat16, np.float32, np.uint32]),
    bit=st.integers(0, 96 * 8 - 1),
)
def test_any_single_bit_flip_changes_both_lanes(data: bytes, dtype: type, bit: int):
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    before, after = (one(np.frombuffer(raw, dtype).reshape(3, -1)) for raw in (data, bytes(flipped)))
    assert before[:8] != after[:8]
    assert before[8:] != after[8:]


@pytest.mark.parametrize("small", [2**20, -1])  # By NumPy and by XLA.
def test_survives_donation(small: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(integrity, "_SMALL", small)
    array = jnp.arange(1000.0)
    expected = one(array)
    lanes = integrity.dispatch({"x": array})
    jax.jit(lambda x: x + 1, donate_argnums=0)(array)
    assert integrity.collect(lanes)["x"] == expected
