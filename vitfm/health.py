"""Metrics that leave the range in which a model learns: told once, and marked in each row that has such."""

from __future__ import annotations

from collections.abc import Mapping

from vitfm.metrics import files
from vitfm.ranges import Range
from vitfm.session import Session

_BEGUN = 0.1  # Of the run: before, much is as it was initialised.


def marks(session: Session, step: int, metrics: Mapping[str, float], ranges: Mapping[str, Range]) -> dict[str, float]:
    """`warning/NAME` -> the value of each metric outside of its range; says so the first time."""
    if step < _BEGUN * session.program.total:
        return {}
    told = outside(step, metrics, ranges)
    for name, line in told.items():
        if name not in session.warned:
            session.warned.add(name)
            session.bar.note(line)
    return {files.WARNING + name: metrics[name] for name in told}


def outside(step: int, metrics: Mapping[str, float], ranges: Mapping[str, Range]) -> dict[str, str]:
    """Name -> what to say, of each metric outside of its range; a value that is no number counts as outside."""
    told = {}
    for name, healthy in ranges.items():
        value = metrics[name]
        if healthy.when and metrics[healthy.when] < 1:  # A mean over steps: in some of them it was not measured.
            continue
        if healthy.least <= value <= healthy.most:
            continue
        limits = f"{healthy.least:.3g} to {healthy.most:.3g}"
        told[name] = f"Warning: {name} is {value:.3g} at step {step:,}, outside {limits}: {healthy.why}."
    return told
