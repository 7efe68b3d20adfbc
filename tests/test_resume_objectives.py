"""Whatever an objective keeps from step to step, its run goes on as if it had never stopped, bit for bit."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import pytest

from tests import tiny
from tests.objectives import specs
from vitfm import recipe as recipes
from vitfm import train_lib
from vitfm.interop import imported, workdir

SHORT = {
    "seed": 0,
    "total": "6 steps",
    "batch_size": 16,
    "ema_decay": 0.9,
    "log_every": 2,
    "checkpoint": {"every": 3, "keep": 2},
}
OPTIM = {"name": "adamw", "learning_rate": 1e-3, "schedule": {"name": "cosine", "warmup": "20%"}, "weight_decay": 0.1}


def write_untrained(teacher: Mapping[str, Any], path: pathlib.Path) -> None:
    """The workdir of a run before its first step, which need not be compiled to teach."""
    config = {**teacher, "total": 1, "batch_size": 1}
    recipe = recipes.parse(config)
    data = recipes.make_data(recipe)
    batch = imported.example(data.facts)
    variables = jax.jit(recipes.make_objective(recipe, data).init)(jax.random.key(1), batch)
    state = {"params": variables.params, "extra": variables.extra}
    workdir.write(imported.Imported(recipes.with_classes(config, data.facts), state, {}, ()), str(path))


@pytest.mark.parametrize("name", specs.EACH)
def test_a_resumed_run_equals_one_that_never_stopped(name: str, tmp_path: pathlib.Path) -> None:
    spec = specs.CASES[name]
    parts = {"objective": spec.objective, "data": {**specs.DATA, **spec.data}, "optim": {**OPTIM, **spec.optim}}
    if spec.teacher:
        write_untrained(spec.teacher, tmp_path / "teacher")
        parts["teacher"] = {"run": str(tmp_path / "teacher")}
    config = ml_collections.ConfigDict({**SHORT, **parts, "compile_cache": str(tmp_path / "compiled")})
    train_lib.train(config, str(tmp_path / "whole"))
    whole, rows = tiny.state(tmp_path / "whole", 6), tiny.rows(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/checkpoints/6")
    (tmp_path / "stopped/result.json").unlink()
    shutil.rmtree(tmp_path / "teacher", ignore_errors=True)  # A run has what it needs of its teacher.
    train_lib.train(config, str(tmp_path / "stopped"))
    tiny.assert_equal_bits(tiny.state(tmp_path / "stopped", 6), whole)
    assert tiny.rows(tmp_path / "stopped") == rows
    before = tiny.state(tmp_path / "stopped", 3)
    for part in ("params", *(f"extra.{kept}" for kept in spec.keeps)):
        assert any(before[leaf].tobytes() != whole[leaf].tobytes() for leaf in whole if leaf.startswith(part)), part
