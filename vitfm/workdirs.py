"""A run's directory: whose it is, and where things lie in it."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from vitfm import recipe as recipes
from vitfm.config import ConfigError
from vitfm.metrics import files


def claim(workdir: str, config: Mapping[str, Any]) -> pathlib.Path:
    """The directory, made where needed, if it is new or belongs to a run of the same config.

    Raises:
      ConfigError: a run of another config lives there, with the keys that differ, or it can't be written.
    """
    directory = pathlib.Path(workdir).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        old = files.read_json(directory / files.CONFIG)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir} can't be used: {error}") from None
    lines = recipes.differences(old, config) if old is not None else []
    if lines:
        raise ConfigError(
            f"{directory} holds a run of another config; these keys differ (there -> here):\n  "
            + "\n  ".join(lines)
            + "\nGive another --workdir, or delete that one."
        )
    return directory


def result(directory: pathlib.Path) -> dict[str, Any] | None:
    """`result.json` of a finished run."""
    return files.read_json(directory / files.RESULT)


def metrics(directory: pathlib.Path, rows: int) -> dict[str, float]:
    """The last value of every metric in the first `rows` rows."""
    latest: dict[str, float] = {}
    for row in itertools.islice(files.read_rows(directory / files.METRICS), rows):
        latest |= {name: value for name, value in row.items() if name not in files.ROW_KEYS}
    return latest


def use_compile_cache(directory: pathlib.Path, name: str | None) -> None:
    """Keeps compiled programs in the workdir, so that a resumed run need not compile."""
    if name is not None:
        jax.config.update("jax_compilation_cache_dir", str((directory / name).absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # Small ones are many.
        compilation_cache.reset_cache()  # JAX would stay with the first directory of this process.
