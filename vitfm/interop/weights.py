"""Weight maps: one table of rows, read in both directions.

A row is (our name or names, their name or names, the way between). Our names are those of the whole state:
`params/encoder/...`, `extra/...`. Several of their names are arrays that lie one after another along their first axis:
queries, keys, values. Several of ours are parts of one of theirs, which the way splits and joins: a class token's
position and those of the patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitfm import tree as trees
from vitfm.checkpoint.layout import CheckpointError, some

Convert = Callable[[Any], Any]  # Of an array; on our side of a tuple of arrays, where a row has several of our names.
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Way:
    """A conversion and its inverse, exact both ways.

    Attributes:
      to_ours: their array -> ours, but for axes that ours splits (heads; queries, keys, values), reshaped afterwards.
      to_theirs: our array, in our shape -> theirs.
      shares: of the first axis that each of several of their arrays has; equal ones where it is empty.
    """

    to_ours: Convert
    to_theirs: Convert
    shares: tuple[int, ...] = ()


Row = tuple[str | tuple[str, ...], str | tuple[str, ...], Way]

same = Way(lambda w: w, lambda w: w)
flat = Way(lambda w: w, lambda w: w.reshape(-1))
linear = Way(lambda w: w.T, lambda w: w.reshape(w.shape[0], -1).T)
filters = Way(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))  # [D,C,h,w] and [h,w,C,D].
token = Way(lambda w: w.reshape(-1), lambda w: w.reshape(1, 1, -1))  # [1,1,D] and [D].


def patches(size: int) -> Way:
    """The filters of a patch stem, [D,C,p,p], and our matrix [p*p*C,D]."""
    to_theirs = lambda w: w.reshape(size, size, -1, w.shape[-1]).transpose(3, 2, 0, 1)
    return Way(lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]), to_theirs)


def to_ours(rows: Sequence[Row], theirs: Mapping[str, np.ndarray], like: Any, where: str = "The weights") -> Any:
    """Their tensors, values or gradients, as a tree like `like`.

    Args:
      rows: the family's.
      theirs: name -> array, exactly those that the rows name.
      like: tree of our shapes and dtypes, {"params": ..., "extra": ...}.
      where: the file, for messages.

    Raises:
      CheckpointError: tensors are missing, unexpected, or of another shape; all are named.
    """
    leaves = dict(trees.named_leaves(like))
    _same_names(rows, leaves)
    refuse(rows, {name: np.shape(array) for name, array in theirs.items()}, leaves, where)
    made = {}
    for ours, names, way in rows:
        parts = [theirs[name] for name in listed(names)]
        found = way.to_ours(parts[0] if len(parts) == 1 else np.concatenate(parts))
        for name, array in zip(listed(ours), (found,) if isinstance(ours, str) else found, strict=True):
            made[name] = np.array(array, leaves[name].dtype, order="C").reshape(leaves[name].shape)
    return jax.tree_util.tree_map_with_path(lambda path, _: made[trees.name(path)], like)


def to_theirs(rows: Sequence[Row], state: Any) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`: {"params": ..., "extra": ...} -> their name -> array."""
    leaves = dict(trees.named_leaves(state))
    _same_names(rows, leaves)
    found: dict[str, np.ndarray] = {}
    for ours, names, way in rows:
        names, array = listed(names), way.to_theirs(_of(ours, leaves))
        parts = np.split(array, np.cumsum(_lengths(len(array), names, way))[:-1]) if len(names) > 1 else [array]
        found |= {name: np.array(part, order="C") for name, part in zip(names, parts, strict=True)}
    return found


def refuse(rows: Sequence[Row], theirs: Mapping[str, Shape], like: Mapping[str, Any], where: str) -> None:
    """Compares the tensors of a file with those the rows name, before any is read.

    Args:
      rows: the family's.
      theirs: name -> shape.
      like: our name -> array or what describes one.
      where: the file, for messages.

    Raises:
      CheckpointError: tensors are missing, unexpected, or of another shape; all are named.
    """
    wanted = dict(expected(rows, like))
    problems = {
        "missing": [name for name in wanted if name not in theirs],
        "unexpected": [name for name in theirs if name not in wanted],
        "of another shape": [
            f"{name} (there {list(theirs[name])}, by config.json {list(shape)})"
            for name, shape in wanted.items()
            if name in theirs and tuple(theirs[name]) != shape
        ],
    }
    found = [f"\n  {what}: {some(names, 12)}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{where} does not fit its config.json. Tensors{''.join(found)}")


def expected(rows: Sequence[Row], like: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Their names and shapes, from ours."""
    for ours, names, way in rows:
        empty = {name: np.empty(like[name].shape, np.bool_) for name in listed(ours)}
        names, shape = listed(names), way.to_theirs(_of(ours, empty)).shape
        lengths = _lengths(shape[0], names, way) if len(names) > 1 else shape[:1]
        yield from ((name, (*lengths[i : i + 1], *shape[1:])) for i, name in enumerate(names))


def _lengths(length: int, names: Sequence[str], way: Way) -> list[int]:
    """Of the first axis of each of several of their arrays."""
    shares = way.shares or (1,) * len(names)
    return [length * share // sum(shares) for share in shares]


def _same_names(rows: Sequence[Row], leaves: Mapping[str, Any]) -> None:
    """A row for each leaf, none twice: else the family's table is wrong, not what the user has."""
    names = [name for ours, _, _ in rows for name in listed(ours)]
    if sorted(names) != sorted(leaves):
        odd = sorted({name for name in names if names.count(name) > 1} | (set(names) ^ set(leaves)))
        raise ValueError(f"weight map and model differ in {', '.join(odd)}")


def _of(names: str | tuple[str, ...], leaves: Mapping[str, Any]) -> Any:
    """One array, or as many as there are names."""
    return np.asarray(leaves[names]) if isinstance(names, str) else tuple(np.asarray(leaves[name]) for name in names)


def listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
