"""Curves of one or several runs as data for the report's charts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vitfm.metrics import runs as runs_lib
from vitfm.metrics import text

_MOST_POINTS = 1000  # of one curve; more than a screen shows only makes the file heavy

# A training metric's group is the first whose pattern its name holds.
_PATTERNS = {
    "Throughput": r"per_second|data_wait|memory|flops|mfu|utili[sz]ation|_seconds|bytes",
    "Optimisation": r"learning_rate|norm|scale|temperature|decay|momentum|gradient|update",
    "Loss and accuracy": r"loss|accuracy|top_?\d|recall|error|perplexity",
    "Diagnostics": r"",
}
_ORDER = ("Loss and accuracy", "Evaluations over time", "Optimisation", "Throughput", "Diagnostics")


def groups(runs: Sequence[runs_lib.Run]) -> list[dict[str, Any]]:
    """Groups of charts, each `{"title", "charts"}`; a chart is `{"name", "title", "fraction", "smooth", "series"}`."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for group, chart in itertools.chain(_training_charts(runs), _evaluation_charts(runs)):
        grouped.setdefault(group, []).append(chart)
    for charts in grouped.values():
        charts.sort(key=lambda chart: chart["name"] not in ("loss", "train/loss"))
    return [{"title": title, "charts": grouped[title]} for title in _ORDER if title in grouped]


def _training_charts(runs: Sequence[runs_lib.Run]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One chart a metric, with a curve a run."""
    for name in _names(runs):
        if not runs_lib.is_evaluation(name):
            group = next(title for title, pattern in _PATTERNS.items() if re.search(pattern, name.lower()))
            yield group, _chart(runs, name, _title(name), [name], smooth=True)


def _evaluation_charts(runs: Sequence[runs_lib.Run]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One chart a metric; those of a single run's evaluator that are fractions share one."""
    together: dict[str, list[str]] = {}
    for name in filter(runs_lib.is_evaluation, _names(runs)):
        if any(len(run.series[name].steps) > 1 for run in runs if name in run.series):
            chart = name.rsplit("/", 1)[0] if text.is_fraction(name) and len(runs) == 1 else name
            together.setdefault(chart, []).append(name)
    for name, members in together.items():
        yield "Evaluations over time", _chart(runs, name, _title(name), members, smooth=False)


def _chart(
    runs: Sequence[runs_lib.Run], name: str, title: str, members: Sequence[str], *, smooth: bool
) -> dict[str, Any]:
    """A chart of the curves called `members` in every run that has them.

    A run has its colour in every chart, whether or not the others have a curve there.
    """
    curves = [
        {
            "label": _label(run, member, len(runs), len(members)),
            "color": color if len(runs) > 1 else number,
            **_thinned(run.series[member]),
        }
        for number, member in enumerate(members)
        for color, run in enumerate(runs)
        if member in run.series
    ]
    return {
        "name": name,
        "title": title,
        "fraction": text.is_fraction(members[0]),
        "smooth": smooth,
        "series": curves,
    }


def _title(name: str) -> str:
    return " · ".join(text.words(part) for part in name.split("/"))


def _label(run: runs_lib.Run, name: str, run_count: int, curve_count: int) -> str:
    """What tells a curve from the others of its chart: the run, the metric, or both."""
    parts = [run.name] if run_count > 1 else []
    if curve_count > 1 or not parts:
        parts.append(text.words(name.rsplit("/", 1)[-1]))
    return " · ".join(parts)


def _thinned(series: runs_lib.Series) -> dict[str, list]:
    """At most about `_MOST_POINTS` points: the lowest, the highest and a lost one of each stretch, so spikes stay."""
    keep = range(len(series.values))
    if len(series.values) > _MOST_POINTS:
        keep = _extremes(np.array(series.values, float))
    return {
        "step": [series.steps[i] for i in keep],
        "examples": [series.examples[i] for i in keep],
        "seconds": [series.seconds[i] for i in keep],
        "values": [None if series.values[i] is None else float(f"{series.values[i]:.6g}") for i in keep],
    }


def _extremes(values: np.ndarray) -> list[int]:
    """Indices of the extremes of each stretch of `values`, of a NaN in it, and of the first and last value."""
    edges = np.linspace(0, len(values), _MOST_POINTS // 2 + 1).astype(int)
    keep = {0, len(values) - 1}
    for start, stop in itertools.pairwise(edges):
        part = values[start:stop]
        keep.add(int(start + np.argmin(part)))  # argmin of a part with a NaN is that NaN
        if not np.isnan(part).all():
            keep.update((int(start + np.nanargmin(part)), int(start + np.nanargmax(part))))
    return sorted(keep)


def _names(runs: Sequence[runs_lib.Run]) -> list[str]:
    """Names of all runs' metrics, each once, in the order of their appearance."""
    return list(dict.fromkeys(name for run in runs for name in run.series))
