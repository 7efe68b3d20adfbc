"""A value as TFDS stores it, by the kind of its feature, and TFDS's feature for that kind."""

from __future__ import annotations

import functools
import itertools
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.data import bad
from vitfm.data.bad import BadExample
from vitfm.data.prepare.kinds import Kind, Kinds, describe


def given(value: Any, kind: str) -> Any:
    """A value as one of `kinds.GIVEN` that a user asks for.

    Raises:
      BadExample: it is none.
    """
    if value is None or kind == "class":
        return value
    if kind == "json":
        return json.dumps(value, ensure_ascii=False, default=_jsonable)
    if isinstance(value, tuple | list | np.ndarray):
        return tuple(given(own, kind) for own in value)
    try:
        return {"text": str, "int": int, "float": float}[kind](value)
    except (TypeError, ValueError) as error:
        raise BadExample("other", f"{value!r:.60} is no {kind}: {error}.") from None


def stored(value: Any, kind: Kind | Kinds, own: Sequence[str] | None = None) -> Any:
    """A value as `feature(kind)` of TFDS encodes it.

    Args:
      value: of an example.
      kind: of the feature.
      own: names of the classes that integers stand for, where these are not the kind's.

    Raises:
      BadExample: it is of another kind.
    """
    try:
        return _stored(value, kind, own)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadExample("other", f"{value!r:.60} is not {describe(kind)}: {error}.") from None


def check_known(value: Mapping[str, Any], kinds: Kinds) -> None:
    """Refuses features that would be lost.

    Raises:
      ValueError: there is one that no example had that was looked at.
    """
    for name, own in value.items():
        if name not in kinds and own is not None:
            raise ValueError(f"It has {name!r}, which no example had that was looked at; see --feature and --sample.")


def feature(kind: Kind | Kinds, channels: int = 3, dtype: str = "uint8") -> Any:
    """TFDS's feature for values of a kind; `channels` and `dtype` are those of an image."""
    import tensorflow_datasets as tfds

    features = tfds.features
    if not isinstance(kind, Kind):
        return features.FeaturesDict({name: feature(own) for name, own in kind.items()})
    if kind.type == "image":
        return features.Image(shape=(None, None, channels), dtype=np.dtype(dtype))
    if kind.type in ("text", "class"):
        one = features.ClassLabel(names=kind.names) if kind.type == "class" else features.Text(optional=not kind.shape)
        return features.Sequence(one) if kind.shape else one
    dtype = np.object_ if kind.type == "bytes" else np.dtype(kind.type)
    encoding = "zlib" if kind.shape.count(None) > 1 else "none"
    return features.Tensor(shape=kind.shape, dtype=dtype, encoding=encoding, optional=not kind.shape)


def _stored(value: Any, kind: Kind | Kinds, own: Sequence[str] | None) -> Any:
    if not isinstance(kind, Kind):
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            raise TypeError(f"its type is {type(value).__name__}")
        check_known(value, kind)
        return {name: _stored(value.get(name), inner, None) for name, inner in kind.items()}
    if kind.shape and kind.type in ("text", "class"):
        several = value if isinstance(value, tuple | list | np.ndarray) else () if value is None else (value,)
        return [_stored(one, kind._replace(shape=()), own) for one in several if one is not None]
    if kind.type == "class":
        return -1 if value is None else _index(value, kind.names, own)
    if kind.type == "image" or (value is None and not kind.shape):
        if kind.type == "image" and not isinstance(value, bytes):
            raise TypeError("there is none")
        return value
    if kind.type in ("text", "bytes"):
        wanted = str if kind.type == "text" else bytes
        if not isinstance(value, wanted):
            raise TypeError(f"its type is {type(value).__name__}")
        return bad.printable(value) if kind.type == "text" else value
    return _array(value, kind)


def _array(value: Any, kind: Kind) -> np.ndarray:
    """A number or an array of them, unchanged but for rounding to float32."""
    if value is None and kind.shape[0] is not None:
        raise TypeError("there is none")
    array = np.zeros([length or 0 for length in kind.shape], kind.type) if _is_nothing(value) else np.asarray(value)
    if array.dtype.kind not in "iubf":
        raise TypeError(f"its type is {type(value).__name__}")
    array = array[None] if kind.shape == (None,) and not array.shape else array
    lengths = itertools.zip_longest(kind.shape, array.shape, fillvalue=-1)
    if any(wanted not in (None, length) or length < 0 for wanted, length in lengths):
        raise ValueError(f"its shape is {array.shape}")
    with np.errstate(invalid="ignore"):
        cast = array.astype(kind.type)
    if cast.dtype.kind in "iub" and (cast != array).any():
        raise ValueError("it is another number")
    return cast


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, tuple | list) and not value)


def _index(value: Any, names: tuple[str, ...], own: Sequence[str] | None) -> int:
    if not isinstance(value, str):
        if not 0 <= value < len(own or names):
            raise ValueError("there is no such class")
        value = (own or names)[operator.index(value)]
    if value not in _indices(names):
        raise ValueError("there is no such class")
    return _indices(names)[value]


@functools.lru_cache(8)
def _indices(names: tuple[str, ...]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise BadExample("other", f"{type(value).__name__} is nothing that JSON has.")
