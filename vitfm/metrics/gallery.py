"""Pages of images: what they show, inlined, and how numbers are spread, as bars and points."""

from __future__ import annotations

import base64
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vitfm.metrics import files, report, text

_EXACT = 128  # Pixels a side up to which an image is kept without loss: enlarged, each of them is seen.
_QUALITY = 90
_POINTS = 3000  # Different sizes that are drawn.
_RADII = (2.0, 14.0)


def write(path: str | os.PathLike[str], template: str, **values: Any) -> pathlib.Path:
    """Writes the page of a template in `assets`; `values` are those of `report.render` and what the template names.

    Returns:
      Its path.
    """
    path = pathlib.Path(path)
    files.replace(path, report.render(template, groups=[], **values).encode())
    return path


def uri(pixels: np.ndarray) -> str:
    """uint8 [H,W,3] as part of a page."""
    quality = 101 if max(pixels.shape[:2]) <= _EXACT else _QUALITY  # Above 100 is OpenCV's word for lossless.
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def thumbnail(pixels: np.ndarray, side: int = 160) -> np.ndarray:
    """uint8 [H,W,3], no side of it longer than `side`."""
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=cv2.INTER_AREA)


def histogram(title: str, values: np.ndarray, unit: str = "", *, log: bool = False, bins: int = 28) -> dict[str, Any]:
    """Bars of equal widths; with `log` each stands for a range of the same ratio.

    Args:
      title: what the values are.
      values: [N], at least one; above 0 for `log`.
      unit: written after a number.
      log: by ratio.
      bins: the most bars; whole numbers of a short range get one each.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return {"title": title, "all": amount(low, unit), "bars": []}
    whole = np.issubdtype(values.dtype, np.integer)
    if log:
        edges = np.geomspace(low, high, bins + 1)
        edges[[0, -1]] = low, high  # Not a rounding beside them.
    elif whole:
        width = max(1, -(-int(high - low + 1) // bins))
        edges = np.arange(low, high + width + 1, width) - 0.5
    else:
        edges = np.linspace(low, high, bins + 1)
    counts, _ = np.histogram(values, edges)
    name = lambda value: amount(value, unit)
    inside = lambda low, high: (np.ceil(low), max(np.ceil(low), np.ceil(high) - 1)) if whole else (low, high)
    ends = [inside(*pair) for pair in zip(edges, [*edges[1:-1], edges[-1] + (whole and log)], strict=False)]
    label = lambda i: name(ends[i][0]) if ends[i][0] == ends[i][1] else f"{name(ends[i][0])} to {name(ends[i][1])}"
    bars = [{"label": label(i), "count": int(n), "share": n / max(counts.max(), 1)} for i, n in enumerate(counts)]
    return {
        "title": title,
        "bars": bars,
        "low": name(low),
        "median": name(float(np.median(values))),
        "high": name(high),
    }


def amount(value: float, unit: str = "") -> str:
    """A number with its unit; bytes in the unit a reader would choose."""
    if unit != "B":
        return f"{text.number(float(f'{value:.3g}') if value < 1000 else round(value))}{unit and ' '}{unit}"
    power = min(int(np.log10(max(value, 1))) // 3, 3)
    value /= 1000**power
    return f"{value:.0f} B" if not power else f"{value:{'.0f' if value >= 10 else '.1f'}} {'kMG'[power - 1]}B"


def bars(rows: Sequence[tuple[str, int]], whole: int | None = None) -> list[dict[str, Any]]:
    """(name, count) as bars; the whole width is a count of `whole`, or the largest."""
    most = whole or max((count for _, count in rows), default=0) or 1
    return [{"name": name, "count": count, "share": count / most} for name, count in rows]


def sizes(heights: np.ndarray, widths: np.ndarray) -> dict[str, Any]:
    """Points of a plot of widths and heights in a box of 100 x 100, both by ratio, each as large as it is frequent."""
    pairs, counts = np.unique(np.stack([widths, heights], axis=1), axis=0, return_counts=True)
    shown = np.sort(np.argsort(-counts, kind="stable")[:_POINTS])
    pairs, counts = pairs[shown], counts[shown]
    low, high = np.log2(max(pairs.min(), 1)) - 0.35, np.log2(max(pairs.max(), 1)) + 0.35
    place = lambda value: 100 * (np.log2(np.maximum(value, 1)) - low) / (high - low)
    radii = _RADII[0] + (_RADII[1] - _RADII[0]) * np.sqrt(counts / len(heights))
    points = [
        {"x": place(w), "y": 100 - place(h), "r": r, "label": f"{w} × {h}: {text.number(int(n))}"}
        for (w, h), n, r in sorted(zip(pairs, counts, radii, strict=True), key=lambda point: -point[2])
    ]
    powers = [2**k for k in range(int(np.ceil(low)), int(np.floor(high)) + 1)]
    step = -(-len(powers) // 8)
    ticks = [{"at": place(power), "label": text.number(power)} for power in powers[::step]]
    return {"points": points, "ticks": ticks}
