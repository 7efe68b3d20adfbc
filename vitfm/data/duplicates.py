"""Images that are nearly the same: which of them, by a hash of what is seen or by a model's embeddings.

The hash is the sign of the 64 lowest frequencies, as in pHash (Zauner 2010), with what is nearly zero counted as no
sign: drawings are symmetric, and half of theirs would be noise. Images within some bits are then compared by colour,
on a grid of 12 x 12. Each image is hashed a second time without its border, so that a crop of it is found.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array, csgraph

from vitfm.config import ConfigError

BITS = 7  # Of 64: where photographs and drawings that were resized, recompressed, brightened or cut by 5% still are.
COSINE = 0.05  # One minus the cosine of two embeddings.
MOST_BITS = 15  # Beyond these unrelated images are alike.
_SIDE, _GRID = 32, 12  # Pixels that are transformed; places where colours are compared.
_BORDER = 0.05  # Of width and height, both sides together, that the second hash leaves out.
_NO_SIGN = 0.1  # Of the root mean square of an image's frequencies: below, JPEG alone turns a sign.
_SAME_COLOURS = 0.96  # Correlation of the grids: nineteen of twenty altered copies have 0.97 and more.
_FLAT = 2.0  # Standard deviation of grey levels, of 255: paper, sky, a frame that is all black.
_BANDS, _BAND = 4, 16  # A code is looked up by parts: bands and their bits.
_CHUNK = 2**22  # Candidates that are compared at once.
_EXACT = 50_000  # Embeddings up to which all pairs are compared; more are searched by an index.
_NEIGHBOURS = 16  # That the index is asked for.
_MOST_PAIRS = 100  # An image; what finds more takes all images for one.


@dataclasses.dataclass(frozen=True)
class Prints:
    """What is kept of N images, V times each: whole, without the border, and mirrored where asked for.

    Attributes:
      codes: uint64 [N,V].
      colours: uint8 [N,V,12*12*3].
      flat: bool [N]: nothing is seen in them; they resemble one another only in that.
    """

    codes: np.ndarray
    colours: np.ndarray
    flat: np.ndarray

    def bits(self, one: int, others: Sequence[int]) -> np.ndarray:
        """In how many bits the nearest two hashes of an image and each of some others differ."""
        return np.bitwise_count(self.codes[one][:, None] ^ self.codes[others][:, None]).min((1, 2)).astype(int)


class Print(NamedTuple):
    """`Prints` of one image."""

    codes: np.ndarray
    colours: np.ndarray
    flat: bool


def fingerprint(pixels: np.ndarray, flips: bool = False) -> Print:
    """The print of an image.

    Args:
      pixels: uint8 [H,W,3].
      flips: find mirrored copies, too.
    """
    margins = [round(side * _BORDER / 2) for side in pixels.shape[:2]]
    inner = pixels[margins[0] : pixels.shape[0] - margins[0], margins[1] : pixels.shape[1] - margins[1]]
    versions = [pixels, inner, pixels[:, ::-1]] if flips else [pixels, inner]
    small = [_shrunk(version, _SIDE) for version in versions]
    colours = np.stack([_shrunk(version, _GRID).reshape(-1) for version in small])
    grey = [cv2.cvtColor(version, cv2.COLOR_RGB2GRAY).astype(np.float32) for version in small]
    return Print(np.array([_code(version) for version in grey]), colours, bool(grey[0].std() < _FLAT))


def stacked(prints: Sequence[Print]) -> Prints:
    """The prints of several images."""
    return Prints(*(np.stack([getattr(one, name) for one in prints]) for name in Print._fields))


def joined(parts: Sequence[Prints]) -> Prints:
    """The prints of one part after those of another."""
    return Prints(*(np.concatenate([getattr(part, name) for part in parts]) for name in Print._fields))


def _shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """Means of areas, [side, side, 3]."""
    return cv2.resize(np.ascontiguousarray(pixels), (side, side), interpolation=cv2.INTER_AREA)


# By the frequency, so that those of natural images, which fall off with it, have a say each.
_WEIGHTS = np.hypot(*np.mgrid[:9, :9]).astype(np.float32)


def _code(grey: np.ndarray) -> np.uint64:
    """The signs of 64 frequencies of float32 [32,32]; the mean, which is brightness, is none of them."""
    waves = (cv2.dct(grey)[:9, :9] * _WEIGHTS).reshape(-1)[1:65]
    return np.packbits(waves > _NO_SIGN * np.sqrt(np.mean(waves**2))).view(np.uint64)[0]


def alike(prints: Prints, distance: int) -> np.ndarray:
    """Pairs of images that are nearly the same, int [P,2]: enough of them to tell who belongs together, not all.

    Args:
      prints: of the images.
      distance: bits in which their hashes may differ.

    Raises:
      ConfigError: more bits than make sense, or nearly all images are alike.
    """
    check_bits(distance)
    seen = np.flatnonzero(~prints.flat)
    versions = prints.codes.shape[1]
    codes, owners = prints.codes[seen].reshape(-1), seen.repeat(versions)
    colours = prints.colours[seen].reshape(-1, prints.colours.shape[-1])
    firsts, links = _identical(codes, colours)
    near = (firsts[pairs] for pairs in _near(codes[firsts], distance))
    alike_too = (pairs[_same_colours(colours[pairs[:, 0]], colours[pairs[:, 1]])] for pairs in near)
    pairs = np.sort(owners[_gathered(itertools.chain([links], alike_too), len(codes), f"{distance}")], axis=1)
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)


def check_bits(distance: int) -> None:
    """Refuses a distance beyond which unrelated images are alike."""
    if not 0 <= distance <= MOST_BITS:
        raise ConfigError(f"--distance={distance} counts bits of 64, from 0 to {MOST_BITS}.")


def check_cosine(distance: float) -> None:
    """Refuses what is no distance of directions."""
    if not 0 < distance < 1:
        raise ConfigError(f"--distance={distance:g} is one minus a cosine, between 0 and 1.")


def _same_colours(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether grids [P,432] go up and down together, bool [P]: brightness and contrast do not count."""
    one, other = (np.float32(grid) - grid.mean(1, keepdims=True, dtype=np.float32) for grid in (one, other))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.einsum("pc,pc->p", one, other) >= _SAME_COLOURS * lengths


def _identical(codes: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entries of equal hash and colours: the first of each, int [F], and pairs of it and the others, int [L,2].

    A thousand copies of one image are so a thousand pairs, not half a million.
    """
    order = np.argsort(codes, kind="stable")
    _, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
    firsts, links = [order[starts[counts == 1]]], [np.empty((0, 2), int)]
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        rest = order[start : start + count]
        while len(rest):
            same = _same_colours(colours[rest[:1]], colours[rest])
            same[0] = True
            links.append(np.stack(np.broadcast_arrays(rest[0], rest[same][1:]), axis=1))
            firsts.append(rest[:1])
            rest = rest[~same]
    return np.concatenate(firsts), np.concatenate(links)


def _near(codes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """Pairs i < j whose codes differ in at most `distance` bits, int [P,2] at a time; some come several times.

    Of four bands of two such codes, one differs in at most a fourth of the bits (Norouzi et al. 2012, multi-index
    hashing): all values so near are looked up in a table of that band.
    """
    flips = [sum(1 << bit for bit in bits) for n in range(distance // _BANDS + 1) for bits in _choices(n)]
    for band in range(_BANDS):
        values = (codes >> np.uint64(band * _BAND)).astype(np.int64) & (2**_BAND - 1)
        order = np.argsort(values, kind="stable")
        starts = np.searchsorted(values[order], np.arange(2**_BAND + 1))
        for flip in flips:
            counts = starts[(values ^ flip) + 1] - starts[values ^ flip]
            for i, place in _expanded(counts):
                j = order[starts[values[i] ^ flip] + place]
                near = (i < j) & (np.bitwise_count(codes[i] ^ codes[j]) <= distance)
                yield np.stack([i[near], j[near]], axis=1)


def _choices(count: int) -> Iterator[tuple[int, ...]]:
    return itertools.combinations(range(_BAND), count)


def _expanded(counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each index as often as `counts` says, with its running number, in parts that fit into memory."""
    parts = np.searchsorted(np.cumsum(counts), np.arange(_CHUNK, counts.sum() + _CHUNK, _CHUNK), side="right")
    for start, stop in itertools.pairwise([0, *(np.minimum(parts + 1, len(counts)))]):
        if start < stop:
            own = counts[start:stop]
            first = np.cumsum(own) - own
            yield np.repeat(np.arange(start, stop), own), np.arange(own.sum()) - np.repeat(first, own)


def close(embeddings: np.ndarray, distance: float) -> np.ndarray:
    """Pairs of embeddings float [N,D] whose cosine is at least 1 - `distance`, int [P,2].

    Up to 50,000 all are compared; more go through an index of their nearest neighbours, which may miss some.

    Raises:
      ConfigError: no such distance, nearly all images are alike to the model, or there is no `usearch`.
    """
    check_cosine(distance)
    vectors = unit(embeddings)
    search = _compared if len(vectors) <= _EXACT else _indexed
    return _gathered(search(vectors, distance), len(vectors), f"{distance:g}")


def _gathered(parts: Iterable[np.ndarray], count: int, distance: str) -> np.ndarray:
    """Pairs of `count` images, int [P,2].

    Raises:
      ConfigError: so many that nearly all images are alike.
    """
    found, total = [np.empty((0, 2), int)], 0
    for pairs in parts:
        found.append(pairs)
        total += len(pairs)
        if total > _MOST_PAIRS * count:
            raise ConfigError(
                f"More than {_MOST_PAIRS} near-duplicates an image at --distance={distance}: nearly all images are "
                "alike. Choose a smaller distance."
            )
    return np.concatenate(found)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """float [N,D] -> float32 [N,D] of length one."""
    return np.float32(embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12))


def _compared(vectors: np.ndarray, distance: float) -> Iterator[np.ndarray]:
    block = max(1, _CHUNK // len(vectors))
    for start in range(0, len(vectors), block):
        i, j = np.nonzero(vectors[start : start + block] @ vectors.T >= 1 - distance)
        yield np.stack([i + start, j], axis=1)[i + start < j]


def _indexed(vectors: np.ndarray, distance: float) -> Iterator[np.ndarray]:
    try:
        from usearch.index import Index
    except ImportError:
        raise ConfigError(
            f"{len(vectors):,} embeddings are searched with an index: pip install 'vitfm[search]'."
        ) from None
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f16")
    index.add(np.arange(len(vectors)), vectors)
    for start in range(0, len(vectors), _EXACT):
        matches = index.search(vectors[start : start + _EXACT], _NEIGHBOURS)
        counts, distances = np.asarray(matches.counts), np.asarray(matches.distances)
        i, place = np.nonzero((np.arange(distances.shape[1]) < counts[:, None]) & (distances <= distance))
        pairs = np.stack([i + start, np.asarray(matches.keys)[i, place].astype(int)], axis=1)
        yield np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)


def groups(pairs: np.ndarray, count: int) -> list[np.ndarray]:
    """Images that belong together, directly or through others: the ids of each group, largest group first."""
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = csgraph.connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), part[0]))


def leakage(found: Sequence[np.ndarray], owner: np.ndarray, sources: int) -> np.ndarray:
    """int [S,S]: how many images of source i are in a group with one of source j; with i = j, with another of it.

    Args:
      found: from `groups`.
      owner: int [N], the source of each image.
      sources: S.
    """
    shared = np.zeros((sources, sources), int)
    for group in found:
        counts = np.bincount(owner[group], minlength=sources)
        others = (counts > 0)[None] & (counts > 0)[:, None]
        shared += np.where(others, counts[:, None], 0) - np.diag(np.where(counts == 1, 1, 0))
    return shared
