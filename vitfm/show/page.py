"""The page of `python -m vitfm.data show`: batches, and a summary of their source, as its template takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm import config as config_lib
from vitfm.data.summary import Captioned, Labelled, Summary
from vitfm.metrics import gallery, report, text
from vitfm.show.findings import Finding, count, share

_BARS = 20  # Classes at each end.
_SIZES = 8  # Of images, that come most often.
_COPIES, _MATES = 12, 6  # Groups of copies that are shown, and images of each.
_WIDTHS = 28  # Different widths from which on bars are of equal ratio.

Thumbnail = Callable[[int], np.ndarray | None]  # index -> uint8 [H,W,3]; None where it can't be read


def values(
    *,
    title: str,
    config: Mapping[str, Any],
    batches: Sequence[Mapping[str, Any]],
    summary: Summary,
    image_size: int,
    found: Sequence[Finding],
    thumbnail: Thumbnail,
    key: Callable[[int], str],
) -> dict[str, Any]:
    """What `gallery.write` takes for the page.

    Args:
      title: of the page.
      config: the recipe.
      batches: from `cards.batch`.
      summary: of the source.
      image_size: of the batches.
      found: what a reader should know first.
      thumbnail, key: of an example.
    """
    captioned = summary.captions is not None and len(summary.captions.tokens)
    shown = {
        "batches": batches,
        "unusable": summary.rejects,
        "images": _images(summary) if len(summary.sizes) else None,
        "labels": _labels(summary.labels, summary.examples) if summary.labels else None,
        "captions": _captions(summary.captions) if captioned else None,
        "copies": _copies(summary, thumbnail, key) if summary.copies else None,
        "configuration": [(name, report.as_text(value)) for name, value in config_lib.flatten(config)],
    }
    names = {
        "batches": "Batches",
        "unusable": "What can't be used",
        "images": "Images",
        "labels": "Labels",
        "captions": "Captions",
        "copies": "The same bytes",
        "configuration": "Configuration",
    }
    return {
        "title": title,
        "subtitle": "data",
        "sections": [(name, label, shown[name]) for name, label in names.items()],
        "facts": _facts(config, summary, image_size),
        "findings": found,
        **shown,
    }


def _facts(config: Mapping[str, Any], summary: Summary, image_size: int) -> list[tuple[str, str]]:
    data = config["data"]
    sizes = [str(view.get("size") or image_size) for view in (data.get("views") or {}).values()]
    pixels = " and ".join(dict.fromkeys(sizes)) or str(image_size)
    if data.get("patches"):
        pixels = "at their own aspect ratio"
    facts = {
        "Source": report.as_text(data["source"]),
        "Examples": text.number(summary.examples),
        "Objective": report.name_of(config.get("objective")),
        "Batch": text.number(config.get("batch_size")),
        "Pixels": pixels,
        "Classes": summary.labels and text.number(len(summary.labels.names)),
        "Tokens": summary.captions and text.number(summary.captions.limit),
        "Seed": text.number(config.get("seed", 0)),
    }
    return [(label, value) for label, value in facts.items() if value]


def _images(summary: Summary) -> dict[str, Any]:
    (heights, widths), shorter = summary.sizes.T, summary.sizes.min(1)
    pairs, counts = np.unique(summary.sizes, axis=0, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:_SIZES]
    common = [(f"{pairs[i][1]:,} × {pairs[i][0]:,}", int(counts[i])) for i in top]
    sampled = f"{len(heights):,} images, spread evenly over {summary.examples:,} examples"
    whole = f"All {len(heights):,} images" if len(heights) == summary.examples else sampled
    several = f"The most frequent of {len(pairs):,} sizes" if len(pairs) > 1 else "Sizes"
    return {
        "note": f"{whole}; sizes are width × height.",
        "plane": gallery.sizes(heights, widths),
        "charts": [
            gallery.histogram("Shorter side", shorter, "px", log=len(np.unique(shorter)) > _WIDTHS),
            gallery.histogram("Width over height", widths / heights, log=True),
            gallery.histogram("File size", summary.bytes, "B", log=True),
        ],
        "bars": [
            {"title": "Formats and channels", "rows": gallery.bars(list(summary.formats.items()))},
            {"title": several, "rows": gallery.bars(common)},
        ],
    }


def _labels(labels: Labelled, examples: int) -> dict[str, Any]:
    order = np.argsort(-labels.counts, kind="stable")
    rows = [(labels.names[i], int(labels.counts[i])) for i in order]
    of = "all" if labels.examples == examples else f"{labels.examples:,} of {examples:,}"
    blocks = [{"title": "Most frequent", "rows": gallery.bars(rows[:_BARS])}]
    if len(rows) > _BARS:
        least = rows[max(_BARS, len(rows) - _BARS) :]
        blocks.append({"title": "Least frequent", "rows": gallery.bars(least, rows[0][1])})
    return {
        "note": f"{count(len(rows), 'class', 'classes')}, counted over {of} examples.",
        "charts": [gallery.histogram("Examples of a class", labels.counts)] if len(rows) > _BARS else [],
        "bars": blocks,
    }


def _captions(captions: Captioned) -> dict[str, Any]:
    total = len(captions.tokens)
    cut = f"{captions.cut:,} ({share(captions.cut / total)}) are longer than {captions.limit} tokens, and cut"
    return {
        "note": f"One drawn for each of {count(total, 'example')}; {cut}. The longest: “{captions.longest}”",
        "charts": [
            gallery.histogram("Tokens, with the special ones", captions.tokens),
            gallery.histogram("Characters", captions.characters),
        ],
        "common": captions.common,
    }


def _copies(summary: Summary, thumbnail: Thumbnail, key: Callable[[int], str]) -> dict[str, Any]:
    shown = summary.copies[:_COPIES]
    some = "" if len(shown) == len(summary.copies) else f"; the {len(shown)} largest are shown"
    all_of = "all" if summary.sampled == summary.examples else f"{summary.sampled:,} of {summary.examples:,}"
    return {
        "note": f"{count(len(summary.copies), 'group')} among {all_of} examples{some}.",
        "groups": [
            {
                "title": count(len(copies), "copy", "copies"),
                "note": "",
                "mates": [mate(thumbnail(index), key(index)) for index in copies[:_MATES]],
                "more": max(len(copies) - _MATES, 0),
            }
            for copies in shown
        ],
    }


def mate(
    pixels: np.ndarray | None, key: str, *, note: str = "", source: str | None = None, color: int = 0
) -> dict[str, Any]:
    """One image of a group, as the templates take it."""
    shown = {"key": key, "source": source, "color": color}
    if pixels is None:
        return {**shown, "uri": None, "note": note}
    height, width = pixels.shape[:2]
    notes = [f"{width:,} × {height:,}", note] if note else [f"{width:,} × {height:,}"]
    return {**shown, "uri": gallery.uri(gallery.thumbnail(pixels)), "note": ", ".join(notes)}
