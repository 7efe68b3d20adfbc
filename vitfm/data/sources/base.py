"""The contract of sources, and what asks them for more than examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from vitfm import config
from vitfm.data.bad import BadExample

_TRIED = 100  # Examples, of which one can be read.


@runtime_checkable
class Source(Protocol):
    """What `make` of a source module returns. It can be pickled, since Grain sends it to worker processes.

    It may have, too, for the functions below to find:
      `classes(feature) -> Sequence[str] | None`: names of the classes that a feature's integers stand for, or the
        classes that a feature of texts can be of, known without reading a single example; None for no class label.
      `column(feature) -> Sequence[Any]`: that feature of every example, without touching an image; None in those that
        can't be read.
      `some(feature, indices) -> Sequence[Any]`: those of a few examples, where a column costs a file each.
      `key(index) -> str`: what an example is called where it lies: a path, a member of an archive, a row of a file;
        `keys() -> Sequence[str]`: those of all.
      `roles`: which features are the "image", the "label" and the "caption" where a recipe does not say.
      `order(seed) -> Order`: the training stream, where that is not one permutation of the examples an epoch.

    Attributes:
      name: what messages and reports call it, usually the words after the scheme.
    """

    name: str

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example: images as encoded `bytes`, strings as `str`, sequences of them as tuples, numbers as NumPy.

        Raises:
          BadExample: it can't be read; others can.
        """


class Order(Protocol):
    """position of the training stream -> index of an example, a function of seed and position alone.

    Attributes:
      epoch: examples in an epoch.
    """

    epoch: int

    def __getitem__(self, position: int) -> int:
        """Any position from 0 up, in constant time and memory."""


def first(source: Source) -> dict[str, Any]:
    """The first example that can be read.

    Raises:
      ConfigError: none of the first hundred can.
    """
    reason: Exception | str = "it has none"
    for index in range(min(len(source), _TRIED)):
        try:
            return source[index]
        except BadExample as error:
            reason = error
    raise config.ConfigError(f"{source.name}: no example can be read; the last: {reason}")


def feature(example: Mapping[str, Any], name: str, where: str) -> Any:
    """A feature of an example; `where` is the key of the recipe that asks for it.

    Raises:
      ConfigError: there is no such feature, with the nearest name.
    """
    if name not in example:
        raise config.ConfigError(f"config.{where} = {name!r} is no feature: {config.nearest(name, list(example))}")
    return example[name]


def column(source: Source, name: str, where: str) -> Sequence[Any]:
    """A feature of every example, in the order of the source; None of those that can't be read.

    Raises:
      ConfigError: there is no such feature.
    """
    own = getattr(source, "column", None)
    feature(first(source), name, where)
    return own(name) if own else [_or_none(source, index, name) for index in range(len(source))]


def some(source: Source, name: str, where: str, indices: Sequence[int]) -> Sequence[Any]:
    """A feature of these examples; None of those that can't be read.

    Raises:
      ConfigError: there is no such feature.
    """
    own = getattr(source, "some", None)
    if own is None:
        values = column(source, name, where)
        return [values[index] for index in indices]
    feature(first(source), name, where)
    return own(name, indices)


def key(source: Source, index: int) -> str:
    """What an example is called where it lies."""
    own = getattr(source, "key", None)
    return own(index) if own else f"{source.name}[{index}]"


def keys(source: Source) -> Sequence[str]:
    """What all examples are called where they lie."""
    own = getattr(source, "keys", None)
    return own() if own else [key(source, index) for index in range(len(source))]


def role(source: Source, name: str) -> str | None:
    """The feature that is the "image", "label" or "caption" where a recipe does not say; None for none."""
    return getattr(source, "roles", {}).get(name)


def _or_none(source: Source, index: int, name: str) -> Any:
    try:
        return source[index][name]
    except BadExample:
        return None
