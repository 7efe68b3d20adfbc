"""Looks for images that are nearly the same, within sources and between them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from vitfm import config as config_lib
from vitfm import run as runs
from vitfm.config import ConfigError
from vitfm.data import bad, duplicates, formats, inputs, sources, viewable
from vitfm.data.bad import BadExample
from vitfm.data.sources import base
from vitfm.show import terminal
from vitfm.show.findings import count

T = TypeVar("T")
_THREADS = 8  # That read and decode.
_BLOCK = 128  # Images in memory at once.
_HASHED = 64  # Pixels of the shorter side that a hash needs: the decoder may leave out the rest.


@dataclasses.dataclass(frozen=True)
class Look:
    """Images that are looked at, those of one source after those of another.

    Attributes:
      names: of the sources, as they were given.
      sources: themselves.
      features: that hold their images.
      owner, index: [N], the source of each image that could be read, and its place there.
      unreadable: (source, what is wrong) of the others.
    """

    names: Sequence[str]
    sources: Sequence[base.Source]
    features: Sequence[str]
    owner: list[int] = dataclasses.field(default_factory=list)
    index: list[int] = dataclasses.field(default_factory=list)
    unreadable: list[tuple[int, bad.Found]] = dataclasses.field(default_factory=list)

    @property
    def owners(self) -> np.ndarray:
        """int [N]."""
        return np.array(self.owner, int)

    def key(self, number: int) -> str:
        """What an image is called where it lies."""
        return base.key(self.sources[self.owner[number]], self.index[number])

    def thumbnail(self, number: int) -> np.ndarray | None:
        """An image, uint8 [H,W,3]; None where it can't be read."""
        source = self.owner[number]
        try:
            return viewable.pixels(self.sources[source][self.index[number]][self.features[source]])
        except BadExample:
            return None

    def each(self, made: Callable[[bytes], T]) -> Iterator[T]:
        """What is made of each encoded image, in order; which they are is noted here.

        Raises:
          ConfigError: none can be read.
        """
        total = sum(map(len, self.sources))
        with ThreadPoolExecutor(_THREADS) as pool, terminal.progress("images", total) as advance:
            for number, source in enumerate(self.sources):
                for start in range(0, len(source), _BLOCK):
                    places = range(start, min(start + _BLOCK, len(source)))
                    read = pool.map(lambda place, number=number: self._read(number, place, made), places)
                    for place, result in zip(places, read, strict=True):
                        advance()
                        if isinstance(result, bad.Found):
                            self.unreadable.append((number, result))
                            continue
                        self.owner.append(number)
                        self.index.append(place)
                        yield result
        if not self.owner:
            first = self.unreadable[0][1].message if self.unreadable else "there is none"
            raise ConfigError(f"No image of {', '.join(self.names)} can be read; the first: {first}")

    def _read(self, number: int, place: int, made: Callable[[bytes], T]) -> T | bad.Found:
        source = self.sources[number]
        try:
            return made(source[place][self.features[number]])
        except BadExample as error:
            return bad.found(place, base.key(source, place), error)


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
      look: among what.
      groups: numbers of the images that belong together, largest group first.
      flat: numbers of images in which nothing is seen; they are in no group.
      apart: (number, numbers) -> how far these are from it, as text.
      how: the method and its distance, in words.
    """

    look: Look
    groups: Sequence[np.ndarray]
    flat: np.ndarray
    apart: Callable[[int, np.ndarray], list[str]]
    how: str

    @property
    def leaked(self) -> np.ndarray:
        """int [S,S], see `vitfm.data.duplicates.leakage`."""
        return duplicates.leakage(self.groups, self.look.owners, len(self.look.sources))


def perceptual(
    names: Sequence[str], *, distance: int = duplicates.BITS, flips: bool = False, image: str | None = None
) -> Found:
    """Near-duplicates by what is seen, see `vitfm.data.duplicates`.

    Args:
      names: sources.
      distance: bits in which the hashes of two images may differ.
      flips: find mirrored copies, too.
      image: the feature with the image; None is what the source says, or "image".

    Raises:
      ConfigError: a source can't be opened, none of its images can be read, or a number makes no sense.
    """
    duplicates.check_bits(distance)
    look = _opened(names, image)
    made = lambda encoded: duplicates.fingerprint(viewable.reduced(encoded, _HASHED), flips)
    each, parts = look.each(made), []
    while some := list(itertools.islice(each, _BLOCK)):
        parts.append(duplicates.stacked(some))
    prints = duplicates.joined(parts)
    return Found(
        look,
        duplicates.groups(duplicates.alike(prints, distance), len(look.owner)),
        np.flatnonzero(prints.flat),
        lambda number, others: [count(bits, "bit") for bits in prints.bits(number, others)],
        f"perceptual hash, up to {distance} of 64 bits{' and mirrored' if flips else ''}",
    )


def embedded(
    names: Sequence[str], path: str, *, distance: float = duplicates.COSINE, image: str | None = None
) -> Found:
    """Near-duplicates by what a model makes of the images.

    Args:
      names: sources.
      path: of a run, or another library's model, as `vitfm.load` takes it.
      distance: one minus the cosine of the embeddings of two images, at most.
      image: the feature with the image; None is what the source says, or "image".

    Raises:
      ConfigError: a source can't be opened, there is no such model, or it embeds no images.
    """
    duplicates.check_cosine(distance)
    look, run = _opened(names, image), runs.load(path)
    if "embed_image" not in run.predict:
        raise ConfigError(f"--run={path} embeds no images; it offers {', '.join(sorted(run.predict))}.")
    data = run.config.data
    shape = {"channels": data.get("channels", 3), "alpha": data.get("alpha", False)}
    spec = config_lib.call(inputs.make, dict(data.get("input") or {}), where="data.input", **shape)
    images, rows = look.each(lambda encoded: formats.decode(encoded, spec)), []
    while some := list(itertools.islice(images, _BLOCK)):
        rows.append(run.embed_image(some))
    vectors = duplicates.unit(np.concatenate(rows))
    return Found(
        look,
        duplicates.groups(duplicates.close(vectors, distance), len(vectors)),
        np.empty(0, int),
        lambda number, others: [f"cosine {cosine:.3f}" for cosine in vectors[others] @ vectors[number]],
        f"embeddings of {path}, cosine from {1 - distance:g}",
    )


def _opened(names: Sequence[str], image: str | None) -> Look:
    """The sources, none of them read yet.

    Raises:
      ConfigError: one can't be opened, or has no such feature.
    """
    opened = [sources.make(name) for name in names]
    features = [image or base.role(source, "image") or "image" for source in opened]
    for name, source, feature in zip(names, opened, features, strict=True):
        known = base.first(source)
        if feature not in known:
            raise ConfigError(f"--image={feature} is no feature of {name}: {config_lib.nearest(feature, list(known))}")
    return Look(names, opened, features)
