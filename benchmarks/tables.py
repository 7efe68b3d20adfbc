"""What every benchmark prints and writes: one table, a JSON file, and the machine they hold for."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

_WIDTH = 200  # Of the output where it goes to a file.

Rows = Mapping[str, Sequence[str]]  # name of a row -> its cells


def show(title: str, columns: Sequence[str], rows: Rows) -> None:
    """Prints a table, whole even where there is no terminal."""
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)


def spread(values: Sequence[float], form: str = "{:.1f}", scale: float = 1.0) -> str:
    """The mean, and from two values on half their range behind it: "33.1 ± 0.4"."""
    scaled = [scale * value for value in values]
    mean = form.format(sum(scaled) / len(scaled))
    return mean if len(scaled) == 1 else f"{mean} ± {form.format((max(scaled) - min(scaled)) / 2)}"


def rewrite(file: pathlib.Path, marks: tuple[str, str], columns: Sequence[str], rows: Rows) -> None:
    """Writes a table in Markdown between two lines of a file, in place of what is between them.

    Raises:
      ValueError: the file lacks one of the lines.
    """
    before, begun, rest = file.read_text().partition(marks[0])
    _, ended, after = rest.partition(marks[1])
    if not begun or not ended:
        raise ValueError(f"{file} has no lines {marks[0]!r} and {marks[1]!r} to write a table between.")
    lines = [columns, ["---"] * len(columns), *([name, *cells] for name, cells in rows.items())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    file.write_text(f"{before}{begun}\n\n{table}\n\n{ended}{after}")


def machine(cores: int) -> dict[str, Any]:
    """Where it runs: processor, cores in use, load before it began, Python."""
    return {
        "processor": _processor(),
        "cores": cores,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def warn_if_busy(facts: Mapping[str, Any]) -> None:
    """Says so where other programs run: then timings mean little."""
    if facts["load_before"] > 0.5:
        print(f"The machine is busy (load {facts['load_before']}): read the timings with care.", file=sys.stderr)


def write(path: str | None, result: Mapping[str, Any]) -> None:
    """Writes JSON where a path is given."""
    if path is not None:
        file = pathlib.Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(f"Written to {file}", file=sys.stderr)


def _processor() -> str:
    """The processor's name as the kernel knows it."""
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
