"""A content hash per leaf, computed where the array lies and equal however it is sharded.

Each element's bits, as uint32 words, are combined with a key made from the element's index and mixed by a bijection of
32 bits; the mixed words are summed modulo 2^32. A sum does not depend on order, so shards are summed where they lie and
only scalars travel; a bijection makes every change of one word, a flipped bit above all, change the sum. Two lanes with
different bijections make 64 bits. The index enters axis by axis: no flat index that could overflow, none to reshard.

This finds damage. It is no defence against someone who forges a checkpoint.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vitfm import tree as trees

Lanes = tuple[jax.Array, jax.Array]

# Shift, factor, shift, factor, shift: the best of hash-prospector's two-round functions, and the end of MurmurHash3.
_BIJECTIONS = ((16, 0x21F0AAAD, 15, 0xD35A2D97, 15), (16, 0x85EBCA6B, 13, 0xC2B2AE35, 16))
_GOLDEN = 0x9E3779B9


def hashes(tree: Any) -> dict[str, str]:
    """The hash of every leaf, 16 hexadecimal digits, by the leaf's name.

    Args:
      tree: any pytree of arrays: floating, complex, integer, bool or PRNG keys, of any shape and sharding.
    """
    return collect(dispatch(tree))


def dispatch(tree: Any) -> dict[str, Lanes]:
    """Starts `hashes` on the devices and returns at once; `tree` may be donated afterwards."""
    # A jit for each leaf, not for the tree: leaves of equal shape share one small program (0.6 s to compile a ViT's 438
    # leaves against 5.3 s, and 29 ms to run against 53).
    return {
        name: _one_at_a_time(leaf) if _may_deadlock(leaf) else _lanes(leaf) for name, leaf in trees.named_leaves(tree)
    }


def collect(lanes: dict[str, Lanes]) -> dict[str, str]:
    """Waits for what `dispatch` started and writes it in hexadecimal."""
    return {name: f"{int(first):08x}{int(second):08x}" for name, (first, second) in jax.device_get(lanes).items()}


def _may_deadlock(leaf: Any) -> bool:
    """XLA's CPU devices share one pool of threads: two programs with collectives in flight can wait for each other."""
    devices = leaf.sharding.device_set if isinstance(leaf, jax.Array) else ()
    return len(devices) > 1 and next(iter(devices)).platform == "cpu"


def _one_at_a_time(leaf: jax.Array) -> Lanes:
    return jax.block_until_ready(_lanes(jax.block_until_ready(leaf)))


@jax.jit
def _lanes(x: jax.Array) -> Lanes:
    """Both sums, uint32 []; shape and dtype are part of what is hashed."""
    words = _words(x)
    identity = f"{x.dtype}{list(x.shape)}".encode()
    return tuple(_lane(words, zlib.crc32(identity, lane), bijection) for lane, bijection in enumerate(_BIJECTIONS))


def _lane(words: jax.Array, seed: int, bijection: tuple[int, ...]) -> jax.Array:
    """Sum over all elements of mix(word ^ key(index)), plus the seed, so that empty arrays differ too."""
    seed = jnp.uint32(seed)
    key = jnp.broadcast_to(seed, (1,) * words.ndim)
    for axis, size in enumerate(words.shape):
        along = tuple(size if other == axis else 1 for other in range(words.ndim))
        key = _mix(key + lax.broadcasted_iota(jnp.uint32, along, axis) * jnp.uint32(_GOLDEN), bijection)
    return seed + jnp.sum(_mix(words ^ key, bijection), dtype=jnp.uint32)


def _mix(x: jax.Array, bijection: tuple[int, ...]) -> jax.Array:
    """Each step can be undone (an odd factor, an xor with its own higher bits), so equal outputs mean equal inputs."""
    first, factor, second, other_factor, third = (jnp.uint32(constant) for constant in bijection)
    x = (x ^ (x >> first)) * factor
    x = (x ^ (x >> second)) * other_factor
    return x ^ (x >> third)


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x` as uint32, of x's shape or with one more axis where an element fills more than one word."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return _words(jax.random.key_data(x))
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return _words(jnp.stack([x.real, x.imag], axis=-1))
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    limits = jnp.finfo if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo
    bits = min(32, limits(x.dtype).bits)  # 64 bits become two words on a new last axis.
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)
