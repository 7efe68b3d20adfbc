"""`report.html`: one self-contained page about a run, finished or not.

The page asks nothing of the network: styles, script and pictures are inside it; its content policy forbids the rest.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

from vitfm import config as config_lib
from vitfm.metrics import curves, files, text
from vitfm.metrics import runs as runs_lib

_ASSETS = pathlib.Path(__file__).parent / "assets"
_MOST_HEADLINES = 6


def write(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `report.html` into a run directory from what lies there.

    Returns:
      Its path.

    Raises:
      UserError: `workdir` is no run directory, or a file in it is broken.
    """
    path = pathlib.Path(workdir) / "report.html"
    files.replace(path, _page(runs_lib.load(workdir)).encode())
    return path


def render(template: str, *, title: str, subtitle: str, groups: Any, sections: Any, **values: Any) -> str:
    """A page from a template in `assets`, with the styles and the script all pages share.

    Args:
      template: the file.
      title, subtitle: of the page.
      groups: charts, as `curves.groups` makes them.
      sections: (anchor, label, what it shows) of each section there may be; an empty one is left out of the navigation.
      **values: what else the template names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "words": text.words,
        "metric_of": lambda value, name: text.metric(name, value),
    }
    environment.tests["fraction"] = text.is_fraction
    return environment.get_template(template).render(
        title=title,
        subtitle=subtitle,
        groups=groups,
        data=_embedded(groups),
        sections=[(anchor, label) for anchor, label, shown in sections if shown],
        style=markupsafe.Markup((_ASSETS / "report.css").read_text()),
        script=markupsafe.Markup((_ASSETS / "report.js").read_text()),
        **values,
    )


def _page(run: runs_lib.Run) -> str:
    groups, tables = curves.groups([run]), _tables(run)
    phases = _phases(run.result.get("phases", {}))
    config = [(key, as_text(value)) for key, value in config_lib.flatten(run.config)]
    return render(
        "report.html.jinja",
        title=run.name,
        subtitle=name_of(run.config.get("objective")),
        groups=groups,
        sections=[
            ("evaluations", "Evaluations", tables),
            ("curves", "Curves", groups),
            ("pictures", "Pictures", run.pictures),
            ("time", "Time", phases),
            ("configuration", "Configuration", config),
        ],
        run=run,
        facts=[(label, value) for label, value in facts(run).items() if value],
        warnings=[_warning(name, series) for name, series in run.warnings.items()],
        headlines=_headlines(run),
        tables=tables,
        pictures=[{"name": p.name, "step": p.step, "uri": data_uri(p.path)} for p in run.pictures],
        phases=phases,
        config=config,
    )


def facts(run: runs_lib.Run) -> dict[str, str]:
    """What a reader asks first: label -> text, which is empty where it is not known."""
    seconds, examples = run.total("seconds"), run.total("examples")
    speed = run.result.get("images_per_second") or (examples / seconds if seconds else None)
    versions = run.result.get("versions", {})
    found = {
        "Steps": text.number(run.total("step")),
        "Images seen": text.number(examples),
        "Wall time": text.duration(seconds),
        "Images per second": speed and (f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"),
        "Device": run.result.get("device"),
        "Seed": run.config.get("seed"),
        "Last written": run.written and f"{run.written:%Y-%m-%d %H:%M} UTC",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {label: "" if value is None else str(value) for label, value in found.items()}


def _warning(name: str, series: runs_lib.Series) -> str:
    """What a reader should know of a metric that was outside of its range."""
    steps = (
        f"steps {series.steps[0]:,} to {series.steps[-1]:,}" if len(series.steps) > 1 else f"step {series.steps[0]:,}"
    )
    return f"{name} was outside its healthy range at {steps}, last {text.number(series.values[-1])}."


def _headlines(run: runs_lib.Run) -> list[dict[str, Any]]:
    """The loss and the leading metric of evaluators, taken in turn from every split, with their history."""
    final = run.final
    leading: dict[tuple[str, str], str] = {}
    for name in filter(runs_lib.is_evaluation, final):
        leading.setdefault(runs_lib.split(name)[:2], name)
    taken: dict[str, list[str]] = {}
    for (first, _), name in leading.items():
        taken.setdefault(first, []).append(name)
    turns = sorted((turn, place, name) for place, names in enumerate(taken.values()) for turn, name in enumerate(names))
    loss = [name for name in ("loss", "train/loss") if name in final][:1]
    chosen = [name for _, _, name in turns[: _MOST_HEADLINES - len(loss)]]
    shown = [name for name in leading.values() if name in chosen] + loss
    return [{"name": name, "value": final[name], "points": _sparkline(run.series.get(name))} for name in shown]


def _sparkline(series: runs_lib.Series | None) -> str:
    """Points of an SVG polyline in a 100 x 24 box; empty where there is no course to see."""
    series = series or runs_lib.Series()
    pairs = [pair for pair in zip(series.steps, series.values, strict=True) if pair[1] is not None]
    if len(pairs) < 2:
        return ""
    pairs = pairs[:: max(1, len(pairs) // 100)]
    low, high = min(value for _, value in pairs), max(value for _, value in pairs)
    start, length = pairs[0][0], (pairs[-1][0] - pairs[0][0]) or 1
    height = lambda value: 22 - 20 * (value - low) / ((high - low) or 1)
    return " ".join(f"{100 * (step - start) / length:.1f},{height(value):.1f}" for step, value in pairs)


def _tables(run: runs_lib.Run) -> list[dict[str, Any]]:
    """Final evaluations, one table a split: a row an evaluator, a column a metric."""
    final = run.final
    parts = [runs_lib.split(name) for name in final if runs_lib.is_evaluation(name)]
    tables = []
    for first in dict.fromkeys(split for split, _, _ in parts):
        columns = list(dict.fromkeys(metric for split, _, metric in parts if split == first))
        rows = [
            {"name": evaluator, "cells": [final.get(f"{first}/{evaluator}/{metric}") for metric in columns]}
            for evaluator in dict.fromkeys(evaluator for split, evaluator, _ in parts if split == first)
        ]
        tables.append({"name": first, "columns": columns, "rows": rows})
    return tables


def _phases(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Phases with their share of the whole, longest first."""
    total = sum(seconds.values()) or 1.0
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return [{"name": name, "time": text.duration(value), "share": value / total} for name, value in ordered]


def name_of(part: Any) -> str:
    """The name of a part of the configuration, which is a mapping with a `name`, or a name alone."""
    return str(part.get("name", "")) if isinstance(part, Mapping) else str(part or "")


def as_text(value: Any) -> str:
    """A setting as a reader would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _embedded(value: Any) -> markupsafe.Markup:
    """JSON that may stand inside a script element: nothing in it can close the element."""
    return markupsafe.Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def data_uri(path: pathlib.Path) -> str:
    """A PNG as part of the page."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
