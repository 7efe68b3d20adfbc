"""Metrics that leave the range in which a model learns: told once, and marked in each row that has such."""

from __future__ import annotations

from collections.abc import Mapping

from vitfm.metrics import files
from vitfm.session import Session

_BEGUN = 0.1  # Of the run: before, much is as it was initialised.


def marks(session: Session, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """`warning/NAME` -> the value of each metric outside of what its objective calls healthy; says so the first time.

    A value that is no number counts as outside.
    """
    p, found = session.program, {}
    if step < _BEGUN * p.total:
        return found
    for name, healthy in p.objective.healthy.items():
        value = metrics[name]
        if healthy.when and metrics[healthy.when] < 1:  # A mean over steps: in some of them it was not measured.
            continue
        if healthy.least <= value <= healthy.most:
            continue
        found[files.WARNING + name] = value
        if name not in session.warned:
            session.warned.add(name)
            limits = f"{healthy.least:.3g} to {healthy.most:.3g}"
            session.bar.note(f"Warning: {name} is {value:.3g} at step {step:,}, outside {limits}: {healthy.why}.")
    return found
