"""Trained models that others learn from: what `config.teacher` names is described, read, and put into the state."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitfm import run as runs
from vitfm import tree as trees
from vitfm.checkpoint.warm_start import Start
from vitfm.config import ConfigError
from vitfm.interop import imported
from vitfm.metrics import files
from vitfm.objectives.base import FROZEN
from vitfm.program import Program

_DESCRIPTION = ("objective", "data", "teacher")  # Of a recipe, what says which model it is.


def described(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
    """`config` with what the teacher's own recipe says of it, so that neither going on nor loading needs the teacher.

    A run that has begun has it in its workdir. What a config says itself counts only where nothing is there to be read.

    Raises:
      ConfigError: there is no run, nor a model of another library.
    """
    teacher = config.get("teacher")
    if not isinstance(teacher, Mapping) or "run" not in teacher:
        return dict(config)
    begun = (files.read_json(pathlib.Path(workdir).expanduser() / files.CONFIG) or {}).get("teacher") or {}
    where = {key: teacher.get(key) for key in ("run", "step")}
    found = begun if all(begun.get(key) == value for key, value in where.items()) else _recipe(teacher["run"])
    if found is None and "objective" not in teacher:
        raise ConfigError(f"config.teacher.run = {teacher['run']!r} holds neither a run nor another library's model.")
    return {**config, "teacher": {**teacher, **{key: found[key] for key in _DESCRIPTION if (found or {}).get(key)}}}


def _recipe(path: str) -> Mapping[str, Any] | None:
    """Of a run or of another library's model; None where there is neither."""
    if imported.is_one(path):
        return imported.read(path).config
    return files.read_json(pathlib.Path(path).expanduser() / files.CONFIG)


def read(p: Program) -> Start | None:
    """The parameters of the teacher that a recipe names, as leaves of `extra`.

    Raises:
      ConfigError: the objective learns from none, or the teacher is not as it is described.
      CheckpointError: its weights are damaged.
    """
    if p.recipe.teacher is None:
        return None
    if FROZEN not in p.shapes.extra:
        name = p.recipe.objective["name"]
        raise ConfigError(f"config.teacher: objective {name!r} learns from no teacher; leave it out.")
    path = p.recipe.teacher["run"]
    run = runs.load(path, p.recipe.teacher.get("step"))
    expected = dict(trees.named_leaves({FROZEN: p.shapes.extra[FROZEN]}))
    found = dict(trees.named_leaves({FROZEN: run.params}))
    shape = lambda leaves, name: leaves[name].shape if name in leaves else None
    others = [name for name in {**expected, **found} if shape(expected, name) != shape(found, name)]
    if others:
        names = ", ".join(name.removeprefix(f"{FROZEN}/") for name in others[:5])
        raise ConfigError(
            f"config.teacher: {path} is not what config.teacher.objective and .data describe; these differ: {names}."
        )
    leaves = {name: np.asarray(leaf).astype(expected[name].dtype) for name, leaf in found.items()}
    return Start(leaves, (), {"run": path, "step": run.step, "hash": imported.content(leaves)})


def note(teacher: Start) -> str:
    """One line for who watches."""
    size = sum(leaf.size for leaf in teacher.leaves.values())
    return f"taught by {teacher.lineage['run']}, step {teacher.lineage['step']:,}: {size:,} parameters that never move"
