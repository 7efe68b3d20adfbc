"""A shuffled order that is computed rather than stored: position -> index, in no memory, for any number of examples."""

from __future__ import annotations

import numpy as np

_ROUNDS = 6


def permuted(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The indices that stand at some positions of a permutation of range(count), int64 [N].

    A Feistel network over the smallest even number of bits that holds all indices, walked until it is back among them
    (Black and Rogaway 2002). It is the same on every machine and with every NumPy.

    Args:
      positions: integers from 0 to count - 1, [N].
      count: examples.
      seed: which permutation.
    """
    half = np.uint64(max(1, -(-(count - 1).bit_length() // 2)))
    keys = _mixed(np.arange(1, _ROUNDS + 1, dtype=np.uint64) + _mixed(np.array([seed], np.uint64)))
    values = np.array(positions, np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        values[outside] = _once(values[outside], half, keys)
        outside = values >= count
    return values.astype(np.int64)


def _once(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << half) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """Bits that depend on all bits of 64 (the finalizer of SplitMix64); arrays of NumPy overflow in silence."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
