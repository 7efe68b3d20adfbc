"""The contract of sources, and what asks them for more than examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from vitfm import config


@runtime_checkable
class Source(Protocol):
    """What `make` of a source module returns. It can be pickled, since Grain sends it to worker processes.

    It may have, too, for the functions below to find:
      `classes(feature) -> Sequence[str] | None`: names of the classes that a feature's integers stand for, or the
        classes that a feature of texts can be of, known without reading a single example; None for no class label.
      `column(feature) -> Sequence[Any]`: that feature of every example, without touching an image.
      `key(index) -> str`: what an example is called where it lies: a path, a member of an archive, a row of a file.
      `roles`: which features are the "image", the "label" and the "caption" where a recipe does not say.

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


def feature(example: Mapping[str, Any], name: str, where: str) -> Any:
    """A feature of an example; `where` is the key of the recipe that asks for it.

    Raises:
      ConfigError: there is no such feature, with the nearest name.
    """
    if name not in example:
        raise config.ConfigError(f"config.{where} = {name!r} is no feature: {config.nearest(name, list(example))}")
    return example[name]


def column(source: Source, name: str, where: str) -> Sequence[Any]:
    """A feature of every example, in the order of the source.

    Raises:
      ConfigError: there is no such feature.
    """
    own = getattr(source, "column", None)
    feature(source[0], name, where)
    return own(name) if own else [source[index][name] for index in range(len(source))]


def key(source: Source, index: int) -> str:
    """What an example is called where it lies."""
    own = getattr(source, "key", None)
    return own(index) if own else f"{source.name}[{index}]"


def role(source: Source, name: str) -> str | None:
    """The feature that is the "image", "label" or "caption" where a recipe does not say; None for none."""
    return getattr(source, "roles", {}).get(name)
