"""What was found of images that are nearly the same: as a page, as JSON, and as the examples to keep."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitfm.data import bad
from vitfm.metrics import gallery, text
from vitfm.show import page
from vitfm.show.duplicates import Found
from vitfm.show.findings import Finding, by_weight, count, good, info, serious

_GROUPS, _MATES = 60, 6  # That the page shows, of each kind, and of each group.
_FLAT = 16
_UNREADABLE = 200
_COLORS = 6  # Of the page's styles.


def kept(found: Found) -> list[str]:
    """Keys of the first source to learn from: of images that belong together one, and none that another source has."""
    owners, dropped = found.look.owners, set()
    for group in found.groups:
        own = group[owners[group] == 0]
        dropped.update(own[0 if len(own) < len(group) else 1 :].tolist())
    return [found.look.key(number) for number in np.flatnonzero(owners == 0).tolist() if number not in dropped]


def as_json(found: Found) -> dict[str, Any]:
    """All that was found, as plain data."""
    look, sources = found.look, range(len(found.look.names))

    def named(number: int) -> dict[str, Any]:
        return {
            "source": look.names[look.owner[number]],
            "key": bad.printable(look.key(number)),
            "index": look.index[number],
        }

    return {
        "how": found.how,
        "sources": [{"name": look.names[i], "examples": len(look.sources[i])} for i in sources],
        "groups": [[named(number) for number in group] for group in found.groups],
        "flat": [named(number) for number in found.flat],
        "leakage": [
            {"of": look.names[i], "in": look.names[j], "images": found.leaked[i, j]}
            for i in sources
            for j in sources
            if i != j
        ],
        "unreadable": [
            {"source": look.names[i], "key": one.key, "index": one.id, "reason": one.reason, "message": one.message}
            for i, one in look.unreadable
        ],
    }


def write(found: Found, out: str | os.PathLike[str]) -> tuple[pathlib.Path, list[Finding]]:
    """Writes the page; returns its path and what the reader should know first."""
    look = found.look
    several = [len(np.unique(look.owners[group])) > 1 for group in found.groups]
    shown = {
        "leakage": _leakage(found) if len(look.names) > 1 else None,
        "across": _shown(found, [group for group, across in zip(found.groups, several, strict=True) if across]),
        "within": _shown(found, [group for group, across in zip(found.groups, several, strict=True) if not across]),
        "flat": [
            page.mate(look.thumbnail(number), bad.printable(look.key(number))) for number in found.flat[:_FLAT].tolist()
        ],
        "unreadable": [one for _, one in look.unreadable[:_UNREADABLE]],
    }
    labels = {
        "leakage": "Leakage",
        "across": "Between sources",
        "within": "Within a source",
        "flat": "Nothing to see",
        "unreadable": "Unreadable",
    }
    said = findings(found)
    values = {
        "title": ", ".join(look.names),
        "subtitle": "near-duplicates",
        "sections": [(name, label, shown[name]) for name, label in labels.items()],
        "facts": [("Images", text.number(len(look.owner))), ("Method", found.how)],
        "findings": said,
        "flat_count": len(found.flat),
        "unreadable_count": len(look.unreadable),
        **shown,
    }
    return gallery.write(out, "duplicates.html.jinja", **values), said


def findings(found: Found) -> list[Finding]:
    """What a reader should know first."""
    look, leaked, said = found.look, found.leaked, []
    for i, name in enumerate(look.names):
        total = int((look.owners == i).sum())
        some = lambda n, total=total, name=name: f"{n:,} of {total:,} images of {name} ({n / total:.1%})"
        said += [
            serious(f"{some(leaked[i, j])} have a near-duplicate in {look.names[j]}.") for j in range(i) if leaked[i, j]
        ]
        if leaked[i, i]:
            said.append(info(f"{some(leaked[i, i])} have a near-duplicate among them."))
    if not said:
        said.append(good(f"No two of {len(look.owner):,} images are nearly the same."))
    if len(found.flat):
        line = f"{count(len(found.flat), 'image')} of one colour all over: compared with none."
        said.append(info(line))
    if look.unreadable:
        said.append(serious(f"{count(len(look.unreadable), 'image')} can't be read."))
    return by_weight(said)


def table(found: Found) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: of each source, how many of its images have a near-duplicate in each."""
    look, leaked = found.look, found.leaked
    heads = ["source", "images", *(f"also in {name}" for name in look.names)]
    totals = np.bincount(look.owners, minlength=len(look.names))
    rows = [[name, f"{totals[i]:,}", *(f"{n:,}" for n in leaked[i])] for i, name in enumerate(look.names)]
    return heads, rows


def _leakage(found: Found) -> dict[str, Any]:
    heads, rows = table(found)
    return {"heads": heads, "rows": [{"cells": row, "color": i % _COLORS} for i, row in enumerate(rows)]}


def _shown(found: Found, groups: Sequence[np.ndarray]) -> dict[str, Any] | None:
    """The largest groups, as the template takes them; None where there is none."""
    if not groups:
        return None
    some = "" if len(groups) <= _GROUPS else f", the {_GROUPS} largest of them shown"
    return {
        "note": f"{count(len(groups), 'group')}{some}. Distances are to the first; some belong to it through others.",
        "groups": [_group(found, group) for group in groups[:_GROUPS]],
    }


def _group(found: Found, group: np.ndarray) -> dict[str, Any]:
    look = found.look
    names, counts = look.names, np.bincount(look.owners[group], minlength=len(look.names))
    first, *others = _in_turn(look.owners, group)[:_MATES]
    notes = ["", *found.apart(first, np.array(others))]
    several = len(names) > 1
    return {
        "title": count(len(group), "image"),
        "note": ", ".join(f"{n:,} of {name}" for name, n in zip(names, counts, strict=True) if n) if several else "",
        "mates": [
            page.mate(
                look.thumbnail(number),
                bad.printable(look.key(number)),
                note=note,
                source=names[look.owner[number]] if several else None,
                color=look.owner[number] % _COLORS,
            )
            for number, note in zip([first, *others], notes, strict=True)
        ],
        "more": max(len(group) - _MATES, 0),
    }


def _in_turn(owners: np.ndarray, group: np.ndarray) -> list[int]:
    """One image of each source, then the next of each: the few that are shown are of all."""
    turns = [int((owners[group[:place]] == owners[number]).sum()) for place, number in enumerate(group)]
    return [int(group[place]) for place in np.lexsort((owners[group], turns))]
