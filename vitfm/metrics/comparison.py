"""One page about several runs: their evaluations in one table, their curves on the same axes, pictures side by side."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vitfm import config as config_lib
from vitfm.metrics import curves, files, report, text
from vitfm.metrics import runs as runs_lib

# Evaluators a reader asks for first; those whose names begin like one of these stand with it.
_ORDER = ("classification", "linear_probe", "knn", "fewshot", "zeroshot", "retrieval")
_LESS_IS_BETTER = re.compile(r"loss|rank|error|perplexity")
_AVERAGED = "ema/"  # In front of the metrics of averaged weights.


def write(workdirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> pathlib.Path:
    """Writes the page about the runs in `workdirs` to `out`.

    Returns:
      Its path.

    Raises:
      UserError: one of them is no run directory, or a file in it is broken.
    """
    path = pathlib.Path(out)
    files.replace(path, _page(_load(workdirs)).encode())
    return path


def _load(workdirs: Sequence[str | os.PathLike[str]]) -> list[runs_lib.Run]:
    """The runs, each named by as many of its last folders as tell it from the others."""
    paths = [pathlib.Path(workdir).resolve() for workdir in workdirs]
    parts = 1
    while len({path.parts[-parts:] for path in paths}) < len(set(paths)):
        parts += 1
    return [dataclasses.replace(runs_lib.load(path), name="/".join(path.parts[-parts:])) for path in paths]


def _page(runs: Sequence[runs_lib.Run]) -> str:
    groups, evaluations, pictures = curves.groups(runs), _evaluations(runs), _pictures(runs)
    objectives = [report.name_of(run.config.get("objective")) for run in runs]
    differing, settings = _differences([run.config for run in runs])
    return report.render(
        "comparison.html.jinja",
        title=", ".join(run.name for run in runs),
        subtitle="comparison",
        groups=groups,
        sections=[
            ("evaluations", "Evaluations", evaluations),
            ("curves", "Curves", groups),
            ("pictures", "Pictures", pictures),
            ("configuration", "Configuration", settings),
        ],
        runs=runs,
        facts=_facts(runs, objectives),
        several_objectives=len(set(objectives)) > 1,
        evaluations=evaluations,
        pictures=pictures,
        differing=differing,
        settings=settings,
    )


def _facts(runs: Sequence[runs_lib.Run], objectives: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(label, one text a run), of what is known of any; versions, which are long, where they differ."""
    rows = [{"Objective": name, **report.facts(run)} for name, run in zip(objectives, runs, strict=True)]
    columns = [(label, [row[label] for row in rows]) for label in rows[0]]
    return [
        (label, values) for label, values in columns if len(set(values)) > 1 or (any(values) and label != "Versions")
    ]


def _evaluations(runs: Sequence[runs_lib.Run]) -> list[dict[str, Any]]:
    """Final evaluations, a block a split: `{"title", "rows"}`; a row is `{"evaluator", "metric", "cells"}`.

    Spreads and intervals stand beside what they are of: `top1_std`, `top1_low` and `top1_high` with `top1`.
    """
    finals = [run.final for run in runs]
    names = dict.fromkeys(name for final in finals for name in final if runs_lib.is_evaluation(name))
    blocks: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for name in sorted(names, key=lambda name: name.startswith(_AVERAGED)):
        if re.sub(r"_(std|low|high)$", "", name) not in names.keys() - {name}:
            averaged = name.startswith(_AVERAGED)
            first, evaluator, metric = runs_lib.split(name.removeprefix(_AVERAGED))
            row = {"evaluator": evaluator, "metric": metric, "name": name, "cells": _cells(name, metric, finals)}
            title = text.words(first) + (", averaged weights" if averaged else "")
            blocks.setdefault(title, []).append((_rank(evaluator), row))
    return [
        {"title": title, "rows": [row for _, row in sorted(rows, key=lambda pair: pair[0])]}
        for title, rows in blocks.items()
    ]


def _rank(evaluator: str) -> int:
    return next((place for place, name in enumerate(_ORDER) if evaluator.startswith(name)), len(_ORDER))


def _cells(name: str, metric: str, finals: Sequence[Mapping[str, float | None]]) -> list[dict[str, Any]]:
    """One `{"text", "spread", "best"}` a run."""
    values = [final.get(name) for final in finals]
    known = [value for value in values if value is not None]
    best = None
    if len(known) > 1 and min(known) < max(known):
        less = _LESS_IS_BETTER.search(metric)
        best = max(known) if text.is_fraction(metric) else min(known) if less else None
    shown = lambda final, suffix: text.metric(metric, final.get(name + suffix))
    cells = []
    for final, value in zip(finals, values, strict=True):
        spread = f"± {shown(final, '_std')}" if f"{name}_std" in final else ""
        if f"{name}_low" in final and f"{name}_high" in final:
            spread = f"{shown(final, '_low')} to {shown(final, '_high')}"
        cells.append(
            {"text": text.metric(metric, value), "spread": spread, "best": value is not None and value == best}
        )
    return cells


def _pictures(runs: Sequence[runs_lib.Run]) -> list[dict[str, Any]]:
    """`{"name", "shown"}` for each picture of any run; what is shown are `{"run", "color", "step", "uri"}`."""
    names = dict.fromkeys(picture.name for run in runs for picture in run.pictures)
    return [
        {
            "name": name,
            "shown": [
                {"run": run.name, "color": color, "step": picture.step, "uri": report.data_uri(picture.path)}
                for color, run in enumerate(runs)
                for picture in run.pictures
                if picture.name == name
            ],
        }
        for name in names
    ]


def _differences(configs: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, list[str]]], int]:
    """(key, one text a run) for the settings that are not the same in all, and how many settings there are."""
    flat = [dict(config_lib.flatten(config)) for config in configs]
    absent = object()
    rows = []
    keys = sorted({key for one in flat for key in one})
    for key in keys:
        values = [one.get(key, absent) for one in flat]
        if any(value != values[0] for value in values):
            rows.append((key, ["–" if value is absent else report.as_text(value) for value in values]))
    return rows, len(keys)
