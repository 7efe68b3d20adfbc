"""Labels: a feature of the examples as indices of named classes."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.config import ConfigError, nearest
from vitfm.data.bad import BadExample
from vitfm.data.sources import base
from vitfm.data.sources.base import Source

MOST_CLASSES = 2**24  # An integer beyond this is an id, no class.


@dataclasses.dataclass(frozen=True)
class Labels:
    """example -> int32 [], the index of its class; or with `multi_label` float32 [K], 1 for each of its classes.

    Attributes:
      feature: texts, looked up in `classes`, or integers, which are the indices themselves.
      classes: their names.
      multi_label: the feature is a sequence.
    """

    feature: str
    classes: tuple[str, ...]
    multi_label: bool

    def __call__(self, example: Mapping[str, Any]) -> np.ndarray:
        """The label of one example.

        Raises:
          ConfigError: it has another class than those known, or no such feature.
          BadExample: the feature is None.
        """
        value = base.feature(example, self.feature, "data.label.feature")
        if value is None:
            raise BadExample("other", f"It has no label: {self.feature!r} is None.")
        if _several(value) != self.multi_label:
            raise ConfigError(
                f"config.data.label.multi_label = {self.multi_label}, but {self.feature!r} is {value!r:.60}."
            )
        if not self.multi_label:
            return np.int32(self._index(value))
        hot = np.zeros(len(self.classes), np.float32)
        hot[[self._index(one) for one in value]] = 1
        return hot

    def _index(self, value: Any) -> int:
        index = self._indices.get(value, -1) if isinstance(value, str) else int(value)
        if not 0 <= index < len(self.classes):
            hint = nearest(value, self.classes[:1000]) if isinstance(value, str) else ""
            raise ConfigError(
                f"config.data.label: {self.feature!r} = {value!r} is none of {len(self.classes)} classes. {hint}"
            )
        return index

    @functools.cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}


def make(
    *,
    feature: str | None = None,
    classes: Sequence[str] | None = None,
    multi_label: bool | None = None,
    open_source: Callable[[], Source],
) -> Labels:
    """Labels from a feature: a class label of TFDS, an integer, a text, or a sequence of either.

    Args:
      feature: its name; None takes the one that the training source says is its label.
      classes: names of the classes in the order of their indices. None takes them from the training source: as it
        knows them (`Source.classes`), or else by reading the feature of every example, no image being decoded: the
        distinct texts in their order, or the integers up to the largest.
      multi_label: the feature is a sequence; None looks at the first example. With `feature`, `classes` and this the
        source stays closed, so that a model can be loaded where the data is not.
      open_source: opens the training source.

    Raises:
      ConfigError: no such feature, or one that can't be a label.
    """
    if feature is None or classes is None or multi_label is None:
        source = open_source()
        feature = _label(source) if feature is None else feature
        multi_label = _several(_first(source, feature)) if multi_label is None else multi_label
        if classes is None:
            where = "data.label.feature"
            classes = known(source, feature) or distinct(base.column(source, feature, where), feature)
    if len(set(classes)) < len(classes) or not classes:
        raise ConfigError(f"config.data.label.classes: {len(classes)} names, of which {len(set(classes))} differ.")
    return Labels(feature, tuple(classes), multi_label)


def _label(source: Source) -> str:
    """The feature that the source says is its label."""
    feature = base.role(source, "label")
    if feature is None:
        raise ConfigError(
            f"config.data.label: {source.name} does not say which feature is its label. Name it, "
            f"config.data.label.feature: {', '.join(sorted(base.first(source)))}."
        )
    return feature


def _first(source: Source, feature: str) -> Any:
    """The feature of the first example that has one."""
    value = base.feature(base.first(source), feature, "data.label.feature")
    if value is not None:
        return value
    return next((own for own in base.column(source, feature, "data.label.feature") if own is not None), None)


def _several(value: Any) -> bool:
    return not isinstance(value, (str, bytes, int, np.integer)) and np.ndim(value) == 1


def known(source: Source, feature: str) -> Sequence[str] | None:
    """Classes as the source knows them, where it does."""
    classes = getattr(source, "classes", None)
    return classes(feature) if callable(classes) else None


def distinct(values: Iterable[Any], feature: str) -> tuple[str, ...]:
    """The classes that occur in the values of a feature.

    Raises:
      ConfigError: they can't be labels.
    """
    found, value = set(), None
    for value in values:
        found.update(value if _several(value) else [value])
    found.discard(None)
    if not found:
        raise ConfigError(
            f"config.data.label.feature = {feature!r} names no class: it is {value!r} in all examples. Name another."
        )
    if _all(str, found):
        return tuple(sorted(found))
    if _all(numbers.Integral, found) and min(found) >= 0 and max(found) < MOST_CLASSES:
        return tuple(str(index) for index in range(int(max(found)) + 1))
    raise ConfigError(
        f"config.data.label.feature = {feature!r}: labels are texts, or integers from 0 up; this one has values such "
        f"as {', '.join(repr(value) for value in list(found)[:3])}."
    )


def _all(kind: type, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)
