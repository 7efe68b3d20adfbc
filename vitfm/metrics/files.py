"""The files of a run directory: atomic writes, valid JSON, rows of `metrics.jsonl`."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vitfm.config import UserError

METRICS = "metrics.jsonl"
RESULT = "result.json"
CONFIG = "config.json"
PICTURES = "pictures"
WARNING = "warning/"  # Before the name of a metric in rows where it was outside of its range.
ROW_KEYS = ("step", "examples", "seconds")  # What every row of metrics has beside its metrics.

_PICTURE = re.compile(r"(?P<name>.+)_(?P<step>\d{8,})\.png")


def replace(path: pathlib.Path, content: bytes) -> None:
    """Writes `path` whole or not at all: a reader, or a killed process, never leaves or sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """`value` with numpy and paths turned into what JSON holds; numbers that are not finite become None (null)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, os.PathLike) else value


def dumps(value: Any, **options: Any) -> bytes:
    """`value` as one valid JSON document that ends with a newline, of file names that are no UTF-8, too."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, **options) + "\n"
    return text.encode(errors="backslashreplace")  # "\\udce9", which JSON reads as what it was.


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
    """The object in `path`; None where there is no such file.

    Raises:
      UserError: the file holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Mend or delete it.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold one JSON object, but holds a {type(value).__name__}. Mend or delete it.")
    return value


def read_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Rows of a `metrics.jsonl`, without a torn last line (what a killed process leaves); none without a file.

    Raises:
      UserError: a line before the last is no row; something other than `Writer` wrote it.
    """
    if not path.exists():
        return
    broken = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if broken:
                raise UserError(f"{path}, line {broken} is not a row of metrics. Delete that line to go on.")
            try:
                row = json.loads(line)
                row["step"] = int(row["step"])
            except (ValueError, TypeError, KeyError):
                broken = number
                continue
            yield row


def picture_file(name: str, step: int) -> str:
    """The file name of picture `name` at `step`: "eval/grid" at 20 is `eval__grid_00000020.png`."""
    return f"{name.replace('/', '__')}_{step:08d}.png"


def picture_name(path: pathlib.Path) -> tuple[str, int] | None:
    """The (name, step) of a picture called so, None for any other file."""
    match = _PICTURE.fullmatch(path.name)
    return (match["name"].replace("__", "/"), int(match["step"])) if match else None
