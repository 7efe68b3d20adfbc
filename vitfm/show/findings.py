"""What a reader should know first, in a line each: the head of a page, and what a command prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vitfm.data import bad
from vitfm.data.summary import Captioned, Labelled, Summary

_IMBALANCE = 10  # Times as many examples in one class as in another, from which on it is told.
_SHARE = 0.01  # Of the examples, likewise: one caption, oblong images.
_CUT = 0.05  # Of the captions; below it is no worry.
_OBLONG = 3.0
_WEIGHTS = ("serious", "info", "good")

Finding = Mapping[str, str]  # "kind", one of `_WEIGHTS`; "text"; and where there is one a "command".


def good(line: str) -> Finding:
    return {"kind": "good", "text": line}


def info(line: str) -> Finding:
    return {"kind": "info", "text": line}


def serious(line: str) -> Finding:
    return {"kind": "serious", "text": line}


def count(number: int, one: str, several: str | None = None) -> str:
    """ "1 image", "2 images"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def share(part: float) -> str:
    """A percentage, with decimals where it is small."""
    return f"{100 * part:.2g}%" if part < 0.1 else f"{part:.0%}"


def by_weight(found: Sequence[Finding]) -> list[Finding]:
    """What is serious first."""
    return sorted(found, key=lambda finding: _WEIGHTS.index(finding["kind"]))


def of(summary: Summary, image_size: int, passed: int, command: str) -> list[Finding]:
    """What a summary says.

    Args:
      summary: of a source.
      image_size: of the batches.
      passed: examples that could not be used in those that are shown.
      command: that looks for near-duplicates.
    """
    found = [*_usable(summary, passed), *_sizes(summary, image_size), *_of_labels(summary.labels)]
    found += _of_captions(summary.captions)
    extra = sum(len(copies) - 1 for copies in summary.copies)
    line = f"{count(extra, 'image is', 'images are')} a copy of another, byte for byte. Near-duplicates:"
    if not extra:
        line = "No two images have the same bytes. Near-duplicates:"
    found.append({"kind": "serious" if extra else "info", "text": line, "command": command})
    return by_weight(found)


def _usable(summary: Summary, passed: int) -> list[Finding]:
    of_all = "" if summary.sampled == summary.examples else f" of {summary.examples:,}"
    examples = f"{summary.sampled:,}{of_all} examples"
    rejected = sum(one.count for one in summary.rejects)
    found = []
    if rejected:
        reasons = bad.counted({one.reason: one.count for one in summary.rejects})
        found.append(serious(f"{rejected:,} of {examples} can't be used: {reasons}. A run takes others for them."))
    else:
        how = "decoded" if summary.decoded else "looked at without decoding; --decode finds broken pixels, too"
        found.append(good(f"{examples}, {how}: all can be used."))
    if passed:
        found.append(serious(f"{count(passed, 'example')} of the batches shown can't be used; others stand for them."))
    return found


def _sizes(summary: Summary, image_size: int) -> list[Finding]:
    if not len(summary.sizes):
        return []
    found = []
    shorter, longer = summary.sizes.min(1), summary.sizes.max(1)
    if (small := float((shorter < image_size).mean())) > 0:
        found.append(info(f"{share(small)} of the images are smaller than the {image_size} pixels of a batch."))
    if (oblong := float((longer > _OBLONG * shorter).mean())) > _SHARE:
        found.append(info(f"{share(oblong)} of the images are more than {_OBLONG:g} times as long as wide."))
    return found


def _of_labels(labels: Labelled | None) -> list[Finding]:
    if labels is None or not labels.counts.any():
        return []
    found, counts = [], labels.counts
    most, least = int(counts.argmax()), int(np.where(counts, counts, counts.max()).argmin())
    if counts[most] >= _IMBALANCE * counts[least]:
        few = f"{labels.names[least]!r} has {counts[least]:,}"
        found.append(info(f"Class {labels.names[most]!r} has {count(counts[most], 'example')}, {few}."))
    if empty := int((counts == 0).sum()):
        found.append(info(f"{empty:,} of {len(counts):,} classes have no example among {labels.examples:,}."))
    return found


def _of_captions(captions: Captioned | None) -> list[Finding]:
    if captions is None or not len(captions.tokens):
        return []
    found, total, limit = [], len(captions.tokens), captions.limit
    if captions.cut:
        need = int(np.ceil(np.percentile(captions.tokens, 95)))
        hint = f"; {need} hold nineteen of twenty (config.data.tokenizer.length)" if need > limit else ""
        line = f"{share(captions.cut / total)} of the captions are longer than {limit} tokens, and cut{hint}."
        found.append(serious(line) if captions.cut > _CUT * total else info(line))
    if captions.common and captions.common[0][1] > _SHARE * total:
        words, often = captions.common[0]
        found.append(info(f"{share(often / total)} of the captions read {words!r}."))
    return found
