"""Of which kind a feature is, by the values that are seen of it.

    Kind("text")                        a caption
    Kind("text", (None,))               a list of tags
    Kind("class", (), ("cat", "dog"))   a label
    Kind("float32", (None, 4))          boxes

A feature that has features within has a mapping of their kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitfm.config import ConfigError
from vitfm.data import formats
from vitfm.data.bad import BadExample

GIVEN = ("text", "int", "float", "class", "json", "none")  # What may be said of a feature.
_EMPTY = "empty"  # The type of a list that nothing has been seen in.


class Kind(NamedTuple):
    """What all values of a feature have in common; any but an image may be None.

    Attributes:
      type: "image", "text", "bytes", "class", or a type of NumPy's.
      shape: () for one value, (None,) for a list; of arrays with None where lengths differ.
      names: of the classes.
    """

    type: str
    shape: tuple[int | None, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.type == "class":
            what = f"one of {len(self.names):,} classes"
        else:
            what = {"int64": "integer", "float32": "number", "bool": "yes or no"}.get(self.type, self.type)
        return what if not self.shape else f"{what} {list(self.shape)}".replace("None", "any number")


Kinds = Mapping[str, "Kind | Kinds"]


class Unlike(ValueError):
    """Two values, or one and what was seen before, that are of no common kind."""


def of(value: Any) -> Kind | Kinds | None:
    """The kind of one value; None of None.

    Raises:
      Unlike: TFDS stores no such values.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        found = {str(name): of(own) for name, own in value.items()}
        return {name: kind for name, kind in found.items() if kind is not None}
    if isinstance(value, bytes):
        return Kind("image" if _is_image(value) else "bytes")
    if isinstance(value, str):
        return Kind("text")
    if isinstance(value, tuple | list):
        return _of_several(value)
    array = np.asarray(value)
    return Kind(_number(array.dtype, value), array.shape)


def widened(one: Kind | Kinds | None, other: Kind | Kinds | None) -> Kind | Kinds | None:
    """The kind of values of both.

    Raises:
      Unlike: there is none.
    """
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, Kind) and isinstance(other, Kind):
        return Kind(_wider(one, other), _shape(one, other))
    if isinstance(one, Kind) or isinstance(other, Kind):
        raise Unlike(f"{describe(one)} and {describe(other)}")
    names = dict.fromkeys([*one, *other])
    return {name: widened(one.get(name), other.get(name)) for name in names}


def infer(examples: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[dict[str, Kind | Kinds], list[str]]:
    """Feature -> the kind of its values; and the features of which there is no value in any example.

    Args:
      examples: each with what it is called.

    Raises:
      ConfigError: values of a feature are of no common kind, with where two of them are and what may be said of it.
    """
    found: dict[str, Any] = {}
    where: dict[str, str] = {}  # Where a feature has first been seen as it is.
    lacking = set()
    for key, example in examples:
        for name, value in example.items():
            before = found.get(name)
            try:
                found[name] = widened(before, of(value))
            except Unlike as error:
                at = f"{where[name]}, {key}" if name in where else key
                raise ConfigError(
                    f"The feature {name!r} holds {error} ({at}), which TFDS can't store as one. Say what it is to be: "
                    f"--feature={name}=TYPE, TYPE being one of {', '.join(GIVEN)} (left out)."
                ) from None
            if found[name] != before:
                where[name] = key
            if value is None:
                lacking.add(name)
    for name in lacking & found.keys():
        if found[name] == Kind("image"):
            found[name] = Kind("bytes")  # TFDS has no image that may be missing.
    known = _known(found)
    return known, [name for name in found if name not in known]


def as_json(kinds: Kinds) -> dict[str, Any]:
    """Kinds as JSON has them."""
    return {name: list(kind) if isinstance(kind, Kind) else as_json(kind) for name, kind in kinds.items()}


def from_json(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What `as_json` made JSON of."""
    one = lambda own: from_json(own) if isinstance(own, dict) else Kind(own[0], *map(tuple, own[1:]))
    return {name: one(own) for name, own in stored.items()}


def describe(kind: Kind | Kinds | None) -> str:
    """A kind in words."""
    return str(kind) if isinstance(kind, Kind) else f"features {', '.join(kind or ())}"


def _of_several(values: Sequence[Any]) -> Kind | None:
    """The kind of a list; of an empty one too little is known."""
    kind: Any = None
    for value in values:
        kind = widened(kind, of(value))
    if kind is None:
        return Kind(_EMPTY, (None,))
    if not isinstance(kind, Kind) or kind.type in ("image", "bytes"):
        raise Unlike(f"a list of {'images or bytes' if isinstance(kind, Kind) else 'objects'}")
    if kind.type == "text" and kind.shape:
        raise Unlike("a list of lists of texts")
    shapes = {np.shape(value) for value in values} if kind.shape else {()}
    if len(shapes) > 1:
        raise Unlike("a list of lists of different lengths")
    return Kind(kind.type, (None, *shapes.pop()))


def _wider(one: Kind, other: Kind) -> str:
    types = {one.type, other.type} - {_EMPTY} or {_EMPTY}
    if len(types) == 1:
        return types.pop()
    if types == {"image", "bytes"}:
        return "bytes"
    if types & {"image", "bytes", "text"}:
        raise Unlike(f"{one} and {other}")
    wide = np.result_type(*map(np.dtype, types))
    return wide.name if wide.kind in "iub" else "float32"


def _shape(one: Kind, other: Kind) -> tuple[int | None, ...]:
    """Of both; one value among lists is a list of one."""
    if len(one.shape) == len(other.shape):
        return tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True))
    if _EMPTY in (one.type, other.type):  # Of how many dimensions the lists would be, it does not say.
        longer = max(one.shape, other.shape, key=len)
        return (None, *longer[1:])
    if {len(one.shape), len(other.shape)} == {0, 1}:
        return (None,)
    raise Unlike(f"{one} and {other}")


def _number(dtype: np.dtype, value: Any) -> str:
    if dtype.kind in "iub":
        if dtype == np.uint64 and np.max(value, initial=0) > np.iinfo(np.int64).max:
            raise Unlike(f"integers of more than 63 bits, such as {value!r:.40}")
        return dtype.name
    if dtype.kind == "f":
        return "float32"
    raise Unlike(f"values of type {type(value).__name__}, such as {value!r:.40}")


def _known(kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Without those of which nothing is known."""
    inner = {name: _known(own) if isinstance(own, dict) else own for name, own in kinds.items()}
    return {name: own for name, own in inner.items() if own and not (isinstance(own, Kind) and own.type == _EMPTY)}


def _is_image(value: bytes) -> bool:
    try:
        formats.kind(value)
    except BadExample:
        return False
    return True
