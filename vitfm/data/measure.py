"""What numbers the images of a source hold: means, deviations and percentiles, types and sizes.

Each image counts the same, however large it is, as in a batch. Moments are merged exactly, in float64, in the order of
the source (Chan, Golub and LeVeque 1983), so that any number of threads gives the same.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import formats, inputs
from vitfm.data.bad import BadExample
from vitfm.data.formats import fitting
from vitfm.data.inputs import Input
from vitfm.data.sources import base

_PERCENTILES = (0.1, 1, 50, 99, 99.9)
_VALUES = 2**22  # Pixels of all images of which the percentiles are.
_BLOCK = 2**20  # Values whose squares are added up at once.
_TRIED = 16  # Examples that tell what is in a source; one has to be an image.
_ANY = {"dtype": "float32", "range": (0.0, 65535.0)}  # A specification that any numbers fit.


class Moments(NamedTuple):
    """Of so many examples, by channel: float64 [C]; `squares` are those of the distances from the mean, added up."""

    weight: float
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def merged(self, other: Moments) -> Moments:
        """Of both."""
        weight = self.weight + other.weight
        apart = other.mean - self.mean
        return Moments(
            weight,
            self.mean + apart * (other.weight / weight),
            self.squares + other.squares + np.square(apart) * (self.weight * other.weight / weight),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.squares / self.weight)


@dataclasses.dataclass(frozen=True)
class Stats:
    """What was found.

    Attributes:
      source: by name.
      examples, sampled, read: in the source, looked at, and fit for use.
      kinds, dtypes, channels: how many files are of each format, hold each type, and each number of channels.
      sizes: (smallest, median, largest), by area, each (height, width).
      spacing: ((rows, columns) of the smallest and of the largest), where files say how far apart pixels lie.
      bad: reason -> how many examples are, the key of the first, and what is wrong with it.
      spec: what was read.
      moments: of the values in the files.
      percentiles: percent -> [C], of a sample of each image's pixels.
    """

    source: str
    examples: int
    sampled: int
    read: int
    kinds: Mapping[str, int]
    dtypes: Mapping[str, int]
    channels: Mapping[int, int]
    sizes: tuple[tuple[int, int], ...]
    spacing: tuple[tuple[float, float], ...] | None
    bad: Mapping[str, tuple[int, str, str]]
    spec: Input
    moments: Moments
    percentiles: Mapping[float, np.ndarray]

    @property
    def mean(self) -> np.ndarray:
        """[C], of values in [0, 1] of the range."""
        low, high = self.spec.range
        return (self.moments.mean - low) / (high - low)

    @property
    def std(self) -> np.ndarray:
        """[C], likewise."""
        return self.moments.std / (self.spec.range[1] - self.spec.range[0])


class _Look(NamedTuple):
    """One image, or what is wrong with it."""

    bad: tuple[str, str] | None = None
    kind: str = ""
    dtype: str = ""
    channels: int = 0
    size: tuple[int, int] = (0, 0)
    spacing: tuple[float, float] | None = None
    moments: Moments | None = None
    values: np.ndarray | None = None


def of_image(pixels: np.ndarray) -> Moments:
    """Of one example, [H,W,C], by blocks of rows."""
    rows = max(1, _BLOCK // (pixels.shape[1] * pixels.shape[2]))
    parts = (pixels[start : start + rows].astype(np.float64) for start in range(0, len(pixels), rows))
    total: Moments | None = None
    for part in parts:
        mean = part.mean((0, 1))
        squares = np.square(part - mean).sum((0, 1))
        own = Moments(part.shape[0] * part.shape[1], mean, squares, part.min((0, 1)), part.max((0, 1)))
        total = own if total is None else total.merged(own)
    return total._replace(weight=1.0, squares=total.squares / total.weight)


def measure(
    source: base.Source,
    *,
    image: str | None = None,
    options: Mapping[str, Any] = {},
    sample: int = 2000,
    threads: int | None = None,
    seen: Callable[[], None] = lambda: None,
) -> Stats:
    """Looks at a source.

    Args:
      source: encoded examples.
      image: the feature with the image; None is what the source says, or "image".
      options: of `vitfm.data.inputs.make`. Without `dtype` and `channels` they are those of the first images.
      sample: the most examples that are read, at even distances.
      threads: None for as many as there are cores.
      seen: called after each.

    Raises:
      ConfigError: the source lacks the feature, no image can be used, or the options make no sense.
    """
    image = image or base.role(source, "image") or "image"
    ids = np.linspace(0, len(source) - 1, min(len(source), sample)).round().astype(int)
    spec = _spec(source, image, options, ids)

    def look(index: int) -> _Look:
        try:
            return _look(base.feature(source[int(index)], image, "data.image"), spec, max(16, _VALUES // len(ids)))
        except BadExample as error:
            return _Look((error.reason, str(error)))
        finally:
            seen()

    bad: dict[str, tuple[int, str, str]] = {}
    good: list[_Look] = []
    moments: Moments | None = None
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for index, one in zip(ids, pool.map(look, ids), strict=True):
            if one.bad is not None:
                reason, message = one.bad
                count, key, first = bad.get(reason, (0, base.key(source, int(index)), message))
                bad[reason] = (count + 1, key, first)
                continue
            moments = one.moments if moments is None else moments.merged(one.moments)
            good.append(one._replace(moments=None))
    if moments is None:
        reason, (_, key, message) = next(iter(bad.items()))
        raise ConfigError(
            f"None of {len(ids)} images of {source.name} can be used, such as {key} ({reason}): {message}"
        )
    percentiles = np.percentile(np.concatenate([one.values for one in good]), _PERCENTILES, axis=0)
    spec = spec if "range" in options else dataclasses.replace(spec, range=_range(spec, moments))
    sizes = sorted((one.size for one in good), key=np.prod)
    spacings = sorted(one.spacing for one in good if one.spacing is not None)
    count = lambda name: dict(collections.Counter(getattr(one, name) for one in good).most_common())
    return Stats(
        source.name,
        len(source),
        len(ids),
        len(good),
        count("kind"),
        count("dtype"),
        count("channels"),
        (sizes[0], sizes[len(sizes) // 2], sizes[-1]),
        (spacings[0], spacings[-1]) if spacings else None,
        dict(sorted(bad.items(), key=lambda item: -item[1][0])),
        spec,
        moments,
        dict(zip(_PERCENTILES, percentiles, strict=True)),
    )


def _look(encoded: bytes, spec: Input, most: int) -> _Look:
    raw = formats.raw(encoded, spec)
    pixels = fitting.fit(raw, spec)
    values = pixels.reshape(-1, pixels.shape[2])
    some = values[:: max(1, len(values) // most)][:most].copy()
    height, width, channels = raw.pixels.shape
    return _Look(
        None,
        formats.kind(encoded),
        raw.pixels.dtype.name,
        channels,
        (height, width),
        raw.spacing,
        of_image(pixels),
        some,
    )


def _spec(source: base.Source, image: str, options: Mapping[str, Any], ids: np.ndarray) -> Input:
    """The specification of these options and, where they do not say, of the first few images.

    Raises:
      ConfigError: there is none among the first few.
    """
    given = dict(options)
    if not {"dtype", "channels"} <= given.keys():
        look = {key: given[key] for key in ("page", "window", "max_pixels") if key in given}
        raws = _first(source, image, config.call(inputs.make, {**_ANY, **look}, where="data.input"), ids)
        counts = [raw.pixels.shape[2] - raw.alpha for raw in raws]
        count = 3 if 3 in counts else counts[0]  # Gray ones among colours are no reason to do without these.
        given.setdefault("channels", len(given["bands"]) if "bands" in given else count)
        own = raws[0].pixels.dtype.name if "window" not in given else "uint8"
        given.setdefault("dtype", own if own in ("uint8", "uint16") else "float32")
    if given["dtype"] == "float32" and "range" not in given:
        given["range"] = _ANY["range"]
    channels = given.pop("channels")
    return config.call(inputs.make, given, where="data.input", channels=channels, alpha=False)


def _first(source: base.Source, image: str, spec: Input, ids: np.ndarray) -> list[fitting.Raw]:
    """Those of the first few images that can be decoded."""
    found, last = [], ""
    for index in ids[:_TRIED]:
        try:
            found.append(formats.raw(base.feature(source[int(index)], image, "data.image"), spec))
        except BadExample as error:
            last = f"{base.key(source, int(index))} ({error.reason}): {error}"
    if found:
        return found
    raise ConfigError(f"None of the first {min(_TRIED, len(ids))} images of {source.name} can be used, such as {last}")


def _range(spec: Input, moments: Moments) -> tuple[float, float]:
    """The values to become 0 and 1: of 16 bits as many as are used, of floats those that were found."""
    if spec.dtype == "uint16":
        return 0.0, float(2 ** max(8, int(moments.high.max()).bit_length()) - 1)
    if spec.dtype == "float32":
        low, high = float(f"{moments.low.min():.6g}"), float(f"{moments.high.max():.6g}")
        return (low, high) if low < high else (low, low + 1.0)
    return spec.range
