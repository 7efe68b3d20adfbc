"""Starting from another run's checkpoint: each parameter is taken, resized or left fresh, and none silently."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import rich.console
import rich.table
import rich.text

from vitfm import config as config_lib
from vitfm import tree as trees
from vitfm.checkpoint import integrity
from vitfm.checkpoint.layout import CheckpointError
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import ConfigError

Shape = tuple[int, ...]
Foreign = Callable[[str], Mapping[str, np.ndarray] | None]
# (name, shape there, shape here) -> None where there is no rule; what resizes it and how that is called; or None and
# why nothing can be done.
Rule = Callable[[str, Shape, Shape], tuple[Callable[[np.ndarray], Any] | None, str] | None]


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one parameter of the new run.

    Attributes:
      name: of the parameter.
      what: "taken", "resized" or "fresh".
      source: its name in the checkpoint; None where it is fresh.
      before, after: its shape there, and here.
      how: it is resized.
    """

    name: str
    what: Literal["taken", "resized", "fresh"]
    source: str | None
    before: Shape | None
    after: Shape
    how: str = ""


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
      leaves: name -> array in host memory, of every parameter that is not fresh.
      rows: one a parameter, in the order of the parameters.
      lineage: what the new run's checkpoints record: `run`, `step`, `hash` of the arrays that were read, the names that
        were `taken` and left `fresh`, and name -> how of those that were `resized`.
    """

    leaves: Mapping[str, np.ndarray]
    rows: Sequence[Row]
    lineage: Mapping[str, Any]


def make(
    *,
    run: str,
    step: int | None = None,
    take: Mapping[str, str] = {"encoder": "encoder"},
    fresh: list[str] | tuple[str, ...] | None = None,
    resize: Mapping[str, Any] = {},
    params: Any,
    resizing: Callable[[Mapping[str, Any]], Rule],
    foreign: Foreign = lambda path: None,
) -> Start:
    """Reads what a new run takes from an old one; every parameter is taken, resized, or declared fresh.

    Args:
      run: the old run's workdir, or what `foreign` reads.
      step: which of its checkpoints; the latest when None.
      take: prefix of the new parameters -> prefix of the old ones: `{"encoder": "image/tower"}`. Of nested prefixes the
        longest counts. `extra/...` and `ema/...` reach the old run's other state: DINO's teacher is
        `extra/teacher/encoder`, averaged weights are `ema/encoder`.
      fresh: patterns of new parameters that keep their initial values, also below a prefix that is taken. None is
        `head`, where the run has one that is not taken.
      resize: how what has another shape is resized: options of `vitfm.models.resizing.make`.
      params: tree of the new parameters' shapes; below `extra` it may hold state that no gradient moves, such as batch
        statistics, which comes from where it lies there, `extra`, unless `take` or `fresh` says otherwise.
      resizing: `resize` -> the rule.
      foreign: path -> every leaf of the state of another library's model by its full name; None where there is none.

    Raises:
      CheckpointError: there is no such checkpoint, it is damaged, or the old parameters are not what the new ones need;
        all that do not fit are named.
      ConfigError: a prefix or pattern covers nothing.
    """
    leaves = dict(trees.named_leaves(params))
    new = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    take = {prefix.strip("/"): source.strip("/") for prefix, source in take.items()}
    initial = _initial(fresh, take, new)
    take = {entry: entry for entry in _beside(new, initial)} | take
    rule = resizing(resize)
    step, old = _read(run, step, list(take.values()), foreign)
    shapes = {name: leaf.shape for name, leaf in old.items()}
    rows = plan(new, shapes, take, initial, rule, where=f"{run}, step {step},")
    read = {row.source: old[row.source] for row in rows if row.source}
    values = {row.name: _value(row, old[row.source], rule) for row in rows if row.source}
    names = {what: [row.name for row in rows if row.what == what] for what in ("taken", "fresh")}
    names["resized"] = {row.name: row.how for row in rows if row.what == "resized"}
    content = hashlib.sha256(json.dumps(integrity.hashes(read), sort_keys=True).encode()).hexdigest()
    return Start(
        {name: value.astype(leaves[name].dtype) for name, value in values.items()},
        rows,
        {"run": run, "step": step, "hash": content, **names},
    )


def plan(
    new: Mapping[str, Shape],
    old: Mapping[str, Shape],
    take: Mapping[str, str],
    fresh: set[str],
    rule: Rule,
    *,
    where: str,
) -> list[Row]:
    """What becomes of each new parameter.

    Args:
      new, old: name -> shape; old names are those of the whole state, `params/encoder/...`.
      take: as in `make`.
      fresh: names of new parameters.
      rule: what can be resized.
      where: the old checkpoint, for messages.

    Raises:
      CheckpointError: they do not fit, by name.
      ConfigError: a prefix of `take` names no parameter, or only fresh ones.
    """
    rows = []
    problems: dict[str, list[str]] = {"missing there": [], "of another shape": [], "neither taken nor fresh": []}
    for name, shape in new.items():
        prefix = max((prefix for prefix in take if _is_below(name, prefix)), key=len, default=None)
        if name in fresh:
            rows.append(Row(name, "fresh", None, None, shape))
            continue
        if prefix is None:
            problems["neither taken nor fresh"].append(name)
            continue
        source = _joined(_full(take[prefix]), _relative(name, prefix))
        if source not in old:
            problems["missing there"].append(source)
            continue
        resize, how = rule(name, old[source], shape) or (None, "")
        if resize:
            rows.append(Row(name, "resized", source, old[source], shape, how))
        elif old[source] == shape:
            rows.append(Row(name, "taken", source, old[source], shape))
        else:
            why = f": {how}" if how else ""
            problems["of another shape"].append(f"{name} (there {list(old[source])}, here {list(shape)}{why})")
    problems["only there"] = [
        source
        for prefix, root in take.items()
        for source in old
        if _is_below(source, _full(root)) and _joined(prefix, _relative(source, _full(root))) not in new
    ]
    for prefix in take:
        if not any(_is_below(name, prefix) and name not in fresh for name in new):
            known = sorted({"/".join(name.split("/")[: prefix.count("/") + 1]) for name in new})
            raise ConfigError(
                f"config.init.take: below {prefix!r} this run has no parameter, or config.init.fresh covers all of "
                f"them: {config_lib.nearest(prefix, known)}"
            )
    found = [f"\n  {what}: {', '.join(names)}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"config.init: {where} does not fit this model. Parameters{''.join(found)}\n"
            "Name what starts anew in config.init.fresh, or where else it lies in config.init.take."
        )
    return rows


def onto(start: Start, params: Any) -> Any:
    """`params` with all but the fresh leaves replaced, each placed as the leaf it replaces."""

    def place(path: Any, leaf: jax.Array) -> jax.Array:
        if trees.name(path) not in start.leaves:
            return leaf
        array = start.leaves[trees.name(path)]
        return jax.make_array_from_callback(array.shape, leaf.sharding, lambda index: array[index])

    return jax.tree_util.tree_map_with_path(place, params)


def show(start: Start, console: rich.console.Console | None = None) -> None:
    """Prints what was taken, part by part, and each parameter that was resized, with how."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in start.rows:
        part = row.name if row.what == "resized" else row.name.split("/")[0]
        parts.setdefault((row.what, part), []).append(row)
    table = rich.table.Table.grid(padding=(0, 2))
    for (what, part), rows in parts.items():
        size = sum(math.prod(row.after) for row in rows)
        table.add_row(f"  {what}", part, rows[0].how or f"{len(rows)} arrays, {size:,} parameters")
    console = console or rich.console.Console()
    title = f"Starting from {start.lineage['run']}, step {start.lineage['step']:,}:"
    console.print(rich.text.Text(title), soft_wrap=True)
    console.print(table)


def _read(run: str, step: int | None, sources: Sequence[str], foreign: Foreign) -> tuple[int, dict[str, np.ndarray]]:
    """The step, and every leaf of its state below `sources` by its full name."""
    leaves = foreign(run)
    if leaves is not None:
        roots = [_full(source) for source in sources]
        return 0, {name: leaf for name, leaf in leaves.items() if any(_is_below(name, root) for root in roots)}
    workdir = pathlib.Path(run).expanduser()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        if not checkpoints.steps():
            known = [str(found.parent) for found in sorted(workdir.parent.glob("*/checkpoints"))]
            raise ConfigError(f"config.init.run = {run!r} holds no checkpoint: {config_lib.nearest(run, known)}")
        step = checkpoints.latest() if step is None else step
        leaves = {}
        for root in dict.fromkeys(map(_full, sources)):
            below = trees.named_leaves(checkpoints.restore_subtree(root, step))
            leaves |= {_joined(root, name): leaf for name, leaf in below}
    return step, leaves


def _value(row: Row, array: np.ndarray, rule: Rule) -> np.ndarray:
    """What the new run takes of an old leaf."""
    if row.what == "taken":
        return np.asarray(array)
    resize, _ = rule(row.name, row.before, row.after)
    return np.asarray(resize(np.asarray(array)))


def _beside(new: Mapping[str, Shape], fresh: set[str]) -> set[str]:
    """The entries of `extra`, `extra/batch_stats`, that are not fresh as a whole."""
    return {"/".join(name.split("/")[:2]) for name in new if name.startswith("extra/") and name not in fresh}


def _initial(fresh: Sequence[str] | None, take: Mapping[str, str], new: Mapping[str, Shape]) -> set[str]:
    """Names of the parameters that keep their initial values."""
    if fresh is None:
        taken = any(_is_below(prefix, "head") for prefix in take)
        return set() if taken else {name for name in new if _is_below(name, "head")}
    names: set[str] = set()
    for pattern in fresh:
        try:
            found = {name for name in new if re.search(pattern, name)}
        except re.error as error:
            raise ConfigError(f"config.init.fresh: {pattern!r} is no regular expression: {error}.") from None
        if not found:
            first = ", ".join(itertools.islice(new, 3))
            raise ConfigError(f"config.init.fresh: {pattern!r} covers nothing. Names look like {first}, ...")
        names |= found
    return names


def _full(source: str) -> str:
    """The name in the whole state of what `take` calls `source`."""
    return source if source.split("/")[0] in ("params", "extra", "ema") else _joined("params", source)


def _is_below(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}/")


def _relative(name: str, prefix: str) -> str:
    return name[len(prefix) :].lstrip("/")


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))
