"""A part of a source, by a hash: `#:90%` and `#90%:` share no example, whatever is added to the source later.

folder:/my/images#:90%                  nine tenths of the examples, by a hash of each one's key
parquet:/scans/*.parquet#90%:&by=patient     the other patients, all scans of each
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vitfm.config import ConfigError
from vitfm.data.sources import base

_NUMBER = r"(\d+(?:\.\d+)?)%"
_PART = re.compile(rf"#(?:{_NUMBER})?:(?:{_NUMBER})?(?:&by=([^&#]+))?")


class Part(NamedTuple):
    """Examples whose hash, a number in [0, 1), lies in [start, end); equal values of `by` have equal hashes."""

    start: float
    end: float
    by: str | None


def split(spec: str) -> tuple[str, Part | None]:
    """`SCHEME:REST#PART` -> (`SCHEME:REST`, part); a `#` that begins no part belongs to the rest.

    Raises:
      ConfigError: the part has nothing in it.
    """
    whole, mark, text = spec.rpartition("#")
    match = _PART.fullmatch(mark + text)
    if not match:
        return spec, None
    start, end = float(match[1] or 0) / 100, float(match[2] or 100) / 100
    if not start < end <= 1:
        raise ConfigError(
            f"Source {spec!r}: the part from {start:.0%} to {end:.0%} is empty; write '#:90%' or '#90%:'."
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

    def key(self, index: int) -> str:
        """Its key in the whole."""
        return base.key(self._whole, int(self._ids[index]))


def make(source: base.Source, part: Part, spec: str) -> Source:
    """The part of a source.

    Raises:
      ConfigError: there is no such feature to go by, or no example in the part.
    """
    if part.by is None:
        groups: Sequence[Any] = [base.key(source, index) for index in range(len(source))]
    else:
        groups = base.column(source, part.by, "data.source")
    share = np.array([_share(str(group)) for group in groups])
    ids = np.flatnonzero((share >= part.start) & (share < part.end))
    if not len(ids):
        raise ConfigError(f"Source {spec!r}: none of {len(source)} examples falls into this part; take a larger one.")
    return Source(source, ids, spec.partition(":")[2])


def _share(group: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48
