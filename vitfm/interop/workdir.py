"""A model of another library as a run of our own: a workdir that loads, evaluates and starts others."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.table
import rich.text

from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import ConfigError
from vitfm.interop import imported
from vitfm.interop.imported import Imported
from vitfm.metrics import files


def write(found: Imported, directory: str) -> None:
    """Writes config.json and a checkpoint of step 0 that records where the weights are from.

    Raises:
      ConfigError: there is a run already.
    """
    path = pathlib.Path(directory).expanduser()
    if (path / files.CONFIG).exists() or (path / "checkpoints").exists():
        raise ConfigError(f"{directory} holds a run already; name another directory, or delete that one.")
    config = _with_own_tokenizer(found.config, path)
    meta = {"config": config, "seconds": 0.0, "lineage": found.lineage}
    with Checkpoints(path / "checkpoints", asynchronous=False) as checkpoints:
        checkpoints.save(0, found.state, meta)
    files.replace(path / files.CONFIG, files.dumps(config, indent=2))


def _with_own_tokenizer(config: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """The recipe with a copy of its tokenizer in the workdir, so that the folder it is from may go."""
    if "tokenizer" not in config["data"]:
        return dict(config)
    tokenizer = config["data"]["tokenizer"]
    file = path / pathlib.Path(tokenizer["path"]).name
    files.replace(file, pathlib.Path(tokenizer["path"]).read_bytes())
    return {**config, "data": {**config["data"], "tokenizer": {**tokenizer, "path": str(file.absolute())}}}


def show(found: Imported, console: rich.console.Console | None = None) -> None:
    """Prints what was taken, part by part, what is not used and why, and the notes."""
    parts: dict[str, list[Any]] = {}
    for name, array in imported.leaves(found.state).items():
        parts.setdefault("/".join(name.split("/")[1:3]), []).append(array)
    table = rich.table.Table.grid(padding=(0, 2))
    for part, arrays in parts.items():
        table.add_row("  taken", part, f"{len(arrays)} arrays, {sum(math.prod(x.shape) for x in arrays):,} parameters")
    for reason, names in found.lineage["unused"].items():
        table.add_row("  unused", ", ".join(names[:2]) + (" ..." if len(names) > 2 else ""), reason)
    console = console or rich.console.Console()
    lineage = found.lineage
    console.print(rich.text.Text(f"{lineage['run']}: {lineage['family']} of {lineage['format']}"), soft_wrap=True)
    console.print(table)
    for line in (*identity(found.config), *found.notes):
        console.print(rich.text.Text(f"  {line}"), soft_wrap=True)


def identity(config: Mapping[str, Any]) -> list[str]:
    """What the model is, and what its images go through, in a line each."""
    objective, data = config["objective"], config["data"]
    models = {key: objective[key] for key in ("model", "image", "text", "decoder") if key in objective}
    shown = lambda spec: ", ".join(f"{key} = {value}" for key, value in spec.items())
    return [
        *(f"{objective['name']}.{key}: {shown(spec)}" for key, spec in models.items()),
        f"images: {shown(data['evaluation'])}, mean = {data['augment']['mean']}, std = {data['augment']['std']}",
    ]
