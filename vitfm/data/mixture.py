"""Mixtures of sources: how much of each a training stream has, whatever their sizes.

    config.data.source = {
        "parts": (
            {"source": "folder:/photos", "weight": 2.0},
            {"source": "parquet:/web/*.parquet", "weight": 1.0, "features": {"caption": "alt_text"}},
            {"source": "tfds:emoji:train", "epochs": 3},
        )
    }

As a source, a mixture is its parts one behind the other, each example once. Its `order` is the training stream: in each
epoch a part has its number of places, filled by going round the part in an order of its own, and on from there in the
next epoch. So two examples of a part never differ by more than one in how often they came, within an epoch or over all,
and a part of which an epoch takes a tenth is through after ten. No memory grows with the number of examples.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data.sources import base

_ROLES = ("image", "label", "caption")


@dataclasses.dataclass(frozen=True)
class Part:
    """A source in a mixture.

    Attributes:
      name: the feature `source` of its examples, and the beginning of their keys.
      source: its examples.
      features: the mixture's name -> its own, where these differ; its own are names, too.
      weight, epochs: of `part`.
    """

    name: str
    source: base.Source
    features: Mapping[str, str]
    weight: float | None
    epochs: float | None

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Its features, as the mixture calls them."""
        return tuple(dict.fromkeys((*self.features, *base.first(self.source))))


@dataclasses.dataclass(frozen=True)
class Order:
    """position -> index in the mixture; see the head of this file.

    Attributes:
      sizes: examples of each part.
      places: of each part in an epoch.
      seed: of the order.
    """

    sizes: tuple[int, ...]
    places: tuple[int, ...]
    seed: int

    @property
    def epoch(self) -> int:
        """Examples in an epoch."""
        return self._ends[-1]

    def __getitem__(self, position: int) -> int:
        place = self._shuffled[position]
        part = int(np.searchsorted(self._ends, place, side="right"))
        before = position // self.epoch * self.places[part]  # Examples of this part in earlier epochs.
        turn = before + place - (self._ends[part] - self.places[part])
        return self._starts[part] + int(self._rounds[part][turn % self.sizes[part]])

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(self.places))

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(self.sizes)]

    @functools.cached_property
    def _shuffled(self) -> Any:
        """The places of an epoch, one permutation after the other."""
        import grain  # It imports JAX, which those who only read examples do without.

        return grain.MapDataset.range(self.epoch).seed(self.seed).shuffle().repeat()

    @functools.cached_property
    def _rounds(self) -> list[Any]:
        """The order in which each part is gone round: always the same, or the ends of a round would not meet."""
        import grain

        seeds = np.random.SeedSequence([self.seed, 1]).generate_state(len(self.sizes))
        return [
            grain.MapDataset.range(size).seed(int(seed)).shuffle() for size, seed in zip(self.sizes, seeds, strict=True)
        ]


class Source:
    """The parts one behind the other: the features that all of them have, and `source`, the name of the part."""

    def __init__(self, parts: Sequence[Part], places: Sequence[int]):
        self.name = " + ".join(part.name for part in parts)
        self.roles = {role: role for role in _ROLES if all(role in part.names for part in parts)}
        self._parts, self._places = tuple(parts), tuple(places)
        self._starts = [0, *itertools.accumulate(len(part.source) for part in parts)]
        self._names = [name for name in parts[0].names if all(name in part.names for part in parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, inside = self._found(index)
        example = part.source[inside]
        own = {name: example[part.features.get(name, name)] for name in self._names}
        return {**own, "source": part.name}

    def order(self, seed: int) -> Order:
        """The training stream."""
        return Order(tuple(len(part.source) for part in self._parts), self._places, seed)

    def classes(self, feature: str) -> tuple[str, ...] | None:
        """The classes of all parts, where each knows its own.

        Raises:
          ConfigError: they are integers, which stand for another class in another part.
        """
        if feature == "source":
            return tuple(part.name for part in self._parts)
        known = []
        for part in self._parts:
            classes = getattr(part.source, "classes", None)
            known.append(classes(part.features.get(feature, feature)) if classes else None)
        values = (base.first(part.source)[part.features.get(feature, feature)] for part in self._parts)
        texts = {isinstance(value, str) for value in values if value is not None}
        if len(texts) > 1 or (False in texts and len(set(map(_tuple, known))) > 1):
            raise ConfigError(
                f"config.data.source: {feature!r} is an integer that stands for another class in each part; parts of a "
                f"mixture need the same classes, or classes as texts."
            )
        return None if None in known else tuple(dict.fromkeys(itertools.chain(*known)))

    def column(self, feature: str) -> list[Any]:
        """A feature of every example."""
        if feature == "source":
            return [part.name for part in self._parts for _ in range(len(part.source))]
        columns = [base.column(part.source, part.features.get(feature, feature), "data.source") for part in self._parts]
        return list(itertools.chain(*columns))

    def key(self, index: int) -> str:
        """The name of the part, and the key in it."""
        part, inside = self._found(index)
        return f"{part.name}/{base.key(part.source, inside)}"

    def keys(self) -> list[str]:
        """The keys of all examples."""
        return [f"{part.name}/{key}" for part in self._parts for key in base.keys(part.source)]

    def _found(self, index: int) -> tuple[Part, int]:
        index = range(len(self))[index]
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[number], index - self._starts[number]


def make(
    *,
    parts: Sequence[Mapping[str, Any]],
    temperature: float = 1.0,
    size: int | None = None,
    open_source: Callable[[str], base.Source],
) -> Source:
    """A mixture of sources.

    Parts with `epochs` have so many of their examples in an epoch of the mixture. The others share the rest of `size`
    in proportion to weight^(1 / temperature), where without weights that of a part is the number of its examples.

    Args:
      parts: options of `part` each.
      temperature: 1 for the proportions as they are; the higher, the more alike the parts (multilingual models were
        trained with 2 to 5, Arivazhagan et al. 2019, arXiv:1907.05019).
      size: examples in an epoch of the mixture; None for as many as the parts together have, those with `epochs`
        counted so often.
      open_source: opens a source by its name.

    Raises:
      ConfigError: options that make no sense, or a part without a place in an epoch.
    """
    make_part = lambda options, where: config.call(part, options, where=where, path=where, open_source=open_source)
    made = [make_part(options, f"data.source.parts.{number}") for number, options in enumerate(parts)]
    names = [own.name for own in made]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"config.data.source.parts = {names}: a mixture needs parts, each with a name of its own; give them `name`."
        )
    if temperature <= 0:
        raise ConfigError(f"config.data.source.temperature = {temperature} must be above 0.")
    return Source(made, _places(made, temperature, size))


def part(
    *,
    source: str,
    weight: float | None = None,
    epochs: float | None = None,
    features: Mapping[str, str] = {},
    name: str | None = None,
    path: str,
    open_source: Callable[[str], base.Source],
) -> Part:
    """A part of a mixture.

    Args:
      source: its name.
      weight: its share of the mixture, relative to other weights: all parts have one, or none, except those with...
      epochs: ... how often it comes in an epoch of the mixture, such as 3 or 0.5.
      features: what the mixture calls a feature -> what the part does. The image, label and caption of the part, where
        it says which they are, are called `image`, `label` and `caption` anyhow.
      name: what tells its examples from others'; None for the source's.
      path: of these options in the recipe, for messages.
      open_source: opens a source by its name.

    Raises:
      ConfigError: options that make no sense, or no such feature.
    """
    for key, value in (("weight", weight), ("epochs", epochs)):
        if value is not None and not value > 0:
            raise ConfigError(f"config.{path}.{key} = {value} must be above 0.")
    if weight is not None and epochs is not None:
        raise ConfigError(f"config.{path}: weight and epochs both say how much of {source!r} there is; give one.")
    opened = open_source(source)
    roles = {role: own for role in _ROLES if (own := base.role(opened, role)) not in (None, role)}
    example = base.first(opened)
    for own in features.values():
        base.feature(example, own, f"{path}.features")
    return Part(name or opened.name, opened, {**roles, **features}, weight, epochs)


def _places(parts: Sequence[Part], temperature: float, size: int | None) -> list[int]:
    """Examples of each part in an epoch of the mixture."""
    sizes = [len(own.source) for own in parts]
    fixed = [None if own.epochs is None else round(own.epochs * count) for own, count in zip(parts, sizes, strict=True)]
    shared = [number for number, count in enumerate(fixed) if count is None]
    taken = sum(filter(None, fixed))
    weights = [parts[number].weight for number in shared]
    if None in weights and any(weights):
        raise ConfigError("config.data.source: give all parts a weight that have no `epochs`, or none of them.")
    if not shared and size not in (None, taken):
        raise ConfigError(
            f"config.data.source.size = {size}, but the `epochs` of its parts make {taken}; leave it out."
        )
    amounts = [sizes[number] if weight is None else weight for number, weight in zip(shared, weights, strict=True)]
    powers = np.log(amounts) / temperature
    powers = np.exp(powers - powers.max(initial=-np.inf))
    left = (sum(sizes[number] for number in shared) + taken if size is None else size) - taken
    ends = np.rint(np.cumsum(powers / powers.sum()) * left).astype(int) if shared else []
    places = list(fixed)
    for number, count in zip(shared, np.diff(ends, prepend=0), strict=True):
        places[number] = int(count)
    for own, count in zip(parts, places, strict=True):
        if count < 1:
            raise ConfigError(
                f"config.data.source: {own.name!r} has no place among {sum(places)}; see size and weight."
            )
    return places


def _tuple(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if classes is None else tuple(classes)
