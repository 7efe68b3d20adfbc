"""A part of a source, by a hash, a list or a feature; `#:90%` and `#90%:` share no example, whatever is added later.

folder:/my/images#:90%                  nine tenths of the examples, by a hash of each one's key
parquet:/scans/*.parquet#90%:&by=patient     the other patients, all scans of each
folder:/my/images#keep=keep.txt         those whose keys a file lists, such as `duplicates --keep` writes
csv:/data/scans.csv#where=scanner:old   those with a feature of that value: how good is a model of these?
folder:/my/images#keep=keep.txt#:90%    a part of a part
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vitfm.config import ConfigError, nearest
from vitfm.data import files
from vitfm.data.bad import BadExample
from vitfm.data.sources import base

_NUMBER = r"(\d+(?:\.\d+)?)%"
_PART = re.compile(rf"#(?:{_NUMBER})?:(?:{_NUMBER})?(?:&by=([^&#]+))?")
_WHERE = re.compile(r"where=([^:]+):(.+)")
_BARE = re.compile(r"#(?=.*\d)([\d.]*)%?:([\d.]*)%?(&by=[^&#]+)?")


class Part(NamedTuple):
    """Examples whose hash, a number in [0, 1), lies in [start, end); equal values of `by` have equal hashes."""

    start: float
    end: float
    by: str | None


class Kept(NamedTuple):
    """Examples whose keys stand in a file, a line each."""

    path: str


class Where(NamedTuple):
    """Examples one of whose features, as a text, is `value`, or has it among its values."""

    feature: str
    value: str


def split(spec: str) -> tuple[str, Part | Kept | Where | None]:
    """`SCHEME:REST#PART` -> (`SCHEME:REST`, part), the last of several; a `#` that begins no part belongs to the rest.

    Raises:
      ConfigError: the part has nothing in it, is more than all, or has numbers without "%".
    """
    whole, mark, text = spec.rpartition("#")
    if mark and text.startswith("keep=") and len(text) > 5:
        return whole, Kept(text.removeprefix("keep="))
    if mark and (where := _WHERE.fullmatch(text)):
        return whole, Where(*where.groups())
    match = _PART.fullmatch(mark + text)
    if not match:
        if bare := _BARE.fullmatch(mark + text):
            start, end = (number and f"{number}%" for number in bare.groups()[:2])
            raise ConfigError(f"Source {spec!r}: parts are in percent; write '#{start}:{end}{bare[3] or ''}'.")
        return spec, None
    start, end = float(match[1] or 0) / 100, float(match[2] or 100) / 100
    if max(start, end) > 1:
        raise ConfigError(f"Source {spec!r}: a part ends at 100%, which is all; write '#:90%' or '#90%:'.")
    if not start < end:
        raise ConfigError(
            f"Source {spec!r}: the part from {start:.4%} to {end:.4%} is empty; write '#:90%' or '#90%:'."
        )
    return whole, Part(start, end, match[3])


class Source:
    """The examples `ids` of another source, in its order."""

    def __init__(self, whole: base.Source, ids: np.ndarray, name: str):
        self.name = name
        self.roles = getattr(whole, "roles", {})
        self._whole, self._ids = whole, ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._whole[int(self._ids[index])]

    def classes(self, feature: str) -> Sequence[str] | None:
        """Those of the whole: both sides of a split number them alike."""
        own = getattr(self._whole, "classes", None)
        return own(feature) if own else None

    def column(self, feature: str) -> Sequence[Any]:
        """A feature of every example of the part."""
        values = base.column(self._whole, feature, "data.source")
        return [values[index] for index in self._ids]

    def some(self, feature: str, indices: Sequence[int]) -> Sequence[Any]:
        """A feature of these examples."""
        return base.some(self._whole, feature, "data.source", [int(self._ids[index]) for index in indices])

    def key(self, index: int) -> str:
        """Its key in the whole."""
        return base.key(self._whole, int(self._ids[index]))

    def keys(self) -> Sequence[str]:
        """Those in the whole."""
        keys = base.keys(self._whole)
        return [keys[index] for index in self._ids]


def make(source: base.Source, part: Part | Kept | Where, spec: str) -> Source:
    """The part of a source.

    Raises:
      ConfigError: there is no such feature or file to go by, or no example in the part.
    """
    if isinstance(part, Kept):
        return _listed(source, part.path, spec)
    if isinstance(part, Where):
        return _where(source, part, spec)
    if part.by is None:
        groups: Sequence[Any] = base.keys(source)
    else:
        groups = base.column(source, part.by, "data.source")
    share = np.array([_share(str(group)) for group in groups])
    ids = np.flatnonzero((share >= part.start) & (share < part.end))
    if not len(ids):
        raise ConfigError(f"Source {spec!r}: none of {len(source)} examples falls into this part; take a larger one.")
    return Source(source, ids, spec.partition(":")[2])


def _listed(source: base.Source, path: str, spec: str) -> Source:
    """The examples whose keys stand in a file."""
    try:
        lines = files.read(path).decode("utf-8", "surrogateescape").split("\n")
    except BadExample as error:
        raise ConfigError(f"Source {spec!r}: the list of keys to keep can't be read: {error}") from None
    wanted = set(lines)
    ids = np.array([index for index, key in enumerate(base.keys(source)) if key in wanted], int)
    if not len(ids):
        raise ConfigError(
            f"Source {spec!r}: none of {len(source)} examples has a key that {path} lists, such as {lines[0]!r}; it "
            "was made from another source."
        )
    return Source(source, ids, spec.partition(":")[2])


def _where(source: base.Source, part: Where, spec: str) -> Source:
    """The examples whose feature is the value."""
    texts = [
        set(map(str, value)) if isinstance(value, tuple) else {str(value)}
        for value in base.column(source, part.feature, "data.source")
    ]
    ids = np.flatnonzero([part.value in own for own in texts])
    if not len(ids):
        there = sorted(set().union(*texts))
        hint = nearest(part.value, there) if len(there) <= 50 else f"there is {there[0]!r}, for one."
        raise ConfigError(f"Source {spec!r}: no {part.feature} is {part.value!r}: {hint}")
    return Source(source, ids, spec.partition(":")[2])


def _share(group: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48
