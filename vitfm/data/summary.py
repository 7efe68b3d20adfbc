"""What is in a source: sizes, formats, classes, captions, copies, and what can't be read.

Images are looked at by their headers, and decoded only where that is asked for. Of a large source a sample is read,
spread evenly over it; every number says how many examples it is of.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL.Image

from vitfm.data import bad, formats
from vitfm.data.bad import BadExample
from vitfm.data.formats import dicom, header, tiff
from vitfm.data.inputs import Input
from vitfm.data.labels import Labels
from vitfm.data.sources import base
from vitfm.data.tokenizer import Tokenizer

_THREADS = 8  # That read: most of the time is the disk's, or the network's.
_SHOWN = 5  # Examples of what is bad.
_COMMON = 10  # Captions that come most often.

Caption = Callable[[Mapping[str, Any], np.random.Generator], str]


@dataclasses.dataclass(frozen=True)
class Rejects:
    """Examples that can't be used for one reason: how many, and the first of them."""

    reason: bad.Reason
    count: int
    shown: tuple[bad.Found, ...]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Examples of each class.

    Attributes:
      names: of the classes.
      counts: int [K]; an example of several classes counts in each.
      examples: how many were counted: all where the source knows its labels, or the sample.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    examples: int


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Captions, one drawn for each example of the sample.

    Attributes:
      tokens: int [M], with the special ones, before the tokenizer cuts them.
      characters: int [M].
      limit: tokens that the tokenizer keeps.
      common: (text, how often), of those that come more than once, most frequent first.
      longest: the one with the most tokens.
    """

    tokens: np.ndarray
    characters: np.ndarray
    limit: int
    common: tuple[tuple[str, int], ...]
    longest: str

    @property
    def cut(self) -> int:
        """How many lose tokens."""
        return int((self.tokens > self.limit).sum())


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was found.

    Attributes:
      name: of the source.
      examples, sampled: in the source, and how many of them were read.
      decoded: their pixels were read, not the headers alone.
      sizes: int [M,2], height and width as stored, of the images that can be used.
      bytes: int [M], encoded.
      formats: format, channels and depth -> how many.
      copies: indices of examples whose images are the same byte for byte, a tuple each, largest first.
      rejects: by reason, most frequent first.
      labels, captions: where the recipe names them.
    """

    name: str
    examples: int
    sampled: int
    decoded: bool
    sizes: np.ndarray
    bytes: np.ndarray
    formats: Mapping[str, int]
    copies: tuple[tuple[int, ...], ...]
    rejects: tuple[Rejects, ...]
    labels: Labelled | None
    captions: Captioned | None


@dataclasses.dataclass(frozen=True)
class _Look:
    """One example: what is wrong with it, or its image's facts, its label and its caption."""

    index: int
    found: bad.Found | None = None
    digest: bytes = b""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    bytes: int = 0
    label: np.ndarray | None = None
    caption: str | None = None


def make(
    source: base.Source,
    *,
    image: str = "image",
    label: Labels | None = None,
    caption: Caption | None = None,
    tokenizer: Tokenizer | None = None,
    limit: int = 0,
    spec: Input = Input(),
    decode: bool = False,
    sample: int = 5000,
    seen: Callable[[], None] = lambda: None,
) -> Summary:
    """Looks at a source.

    Args:
      source: encoded examples.
      image: the feature that holds the image.
      label, caption: as a recipe's loader has them.
      tokenizer: of the recipe, but with room for any caption; `limit` is what the recipe has room for.
      spec: what is read of image files.
      decode: they are decoded, to find what is broken beyond its header.
      sample: the most examples that are read.
      seen: called after each.

    Raises:
      ConfigError: the source lacks a feature, or has a label that is no class.
    """
    ids = spread(len(source), sample)

    def look(index: int) -> _Look:
        try:
            return _look(source, int(index), image, label, caption, spec, decode)
        finally:
            seen()

    with ThreadPoolExecutor(_THREADS) as pool:
        looks = list(pool.map(look, ids))
    good = [one for one in looks if one.found is None]
    return Summary(
        source.name,
        len(source),
        len(ids),
        decode,
        np.array([one.size for one in good], int).reshape(-1, 2),
        np.array([one.bytes for one in good], int),
        dict(collections.Counter(one.format for one in good).most_common()),
        _copies(good),
        _rejects(one.found for one in looks if one.found is not None),
        None if label is None else _labelled(source, label, good),
        None if caption is None else _captioned([one.caption for one in good], tokenizer, limit),
    )


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, at even distances, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _look(
    source: base.Source,
    index: int,
    image: str,
    label: Labels | None,
    caption: Caption | None,
    spec: Input,
    decode: bool,
) -> _Look:
    try:
        example = source[index]
        encoded = base.feature(example, image, "data.image")
        formats.check(encoded, spec)
        kind, size = _described(encoded), formats.size(encoded)
        if decode:
            formats.decode(encoded, spec)
        found = None if label is None else label(example)
        text = None if caption is None else caption(example, np.random.default_rng(index))
    except BadExample as error:
        return _Look(index, bad.found(index, base.key(source, index), error))
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    return _Look(index, None, digest, kind, size, len(encoded), found, text)


def _described(encoded: bytes) -> str:
    """Format, channels and depth as the header has them: "jpeg RGB", "png RGB 16 bits", "tiff 4 × float32"."""
    kind = formats.kind(encoded)
    if kind == "tiff":
        found = tiff.header(encoded, kind, None)
        return f"{kind} {found.channels} × {found.file[0].dtype}"
    if kind == "dicom":
        found = dicom.header(encoded, kind, None)
        return f"{kind} {found.channels} × {found.file.get('BitsStored', '?')} bits"
    deep = kind == "png" and header.png(encoded).bits == 16
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            return f"{kind} {image.mode.partition(';')[0]}{' 16 bits' if deep or ';16' in image.mode else ''}"
    except OSError:  # A format that the installed Pillow lacks, or one that only looks like it.
        return kind


def _copies(looks: Sequence[_Look]) -> tuple[tuple[int, ...], ...]:
    by_digest: dict[bytes, list[int]] = {}
    for one in looks:
        by_digest.setdefault(one.digest, []).append(one.index)
    several = [tuple(indices) for indices in by_digest.values() if len(indices) > 1]
    return tuple(sorted(several, key=len, reverse=True))


def _rejects(found: Iterable[bad.Found]) -> tuple[Rejects, ...]:
    by_reason: dict[bad.Reason, list[bad.Found]] = {}
    for one in found:
        by_reason.setdefault(one.reason, []).append(one)
    rejects = [Rejects(reason, len(own), tuple(own[:_SHOWN])) for reason, own in by_reason.items()]
    return tuple(sorted(rejects, key=lambda own: -own.count))


def _labelled(source: base.Source, label: Labels, looks: Sequence[_Look]) -> Labelled:
    """Of all examples where the source has them in a column, for that reads no image."""
    if hasattr(source, "column"):
        column = base.column(source, label.feature, "data.label.feature")
        values = [label({label.feature: value}) for value in column if value is not None]
    else:
        values = [one.label for one in looks]
    classes = len(label.classes)
    counts = np.sum(values, axis=0) if label.multi_label and values else np.bincount(values, minlength=classes)
    return Labelled(label.classes, counts.astype(int), len(values))


def _captioned(texts: Sequence[str], tokenizer: Tokenizer, limit: int) -> Captioned:
    tokens = np.array([tokenizer(text)[1].sum() for text in texts], int)
    common = collections.Counter(text.strip() for text in texts).most_common(_COMMON)
    return Captioned(
        tokens,
        np.array([len(text) for text in texts], int),
        limit,
        tuple((text, count) for text, count in common if count > 1),
        texts[int(np.argmax(tokens))] if len(texts) else "",
    )
