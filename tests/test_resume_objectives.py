"""Whatever an objective keeps from step to step, its run goes on as if it had never stopped, bit for bit."""

from __future__ import annotations

import pathlib
import shutil

import ml_collections
import pytest

from tests import tiny
from vitfm import config as config_lib
from vitfm import overrides, train_lib

TOWER = {"patch_size": 16, "hidden_dim": 32, "depth": 2, "num_heads": 2}
CHANGES = {
    "supervised": {"objective.model": {"name": "vit", "drop_path_rate": 0.2, **TOWER}},
    "mae": {"objective.model": TOWER, "objective.decoder": {"hidden_dim": 16, "depth": 1, "num_heads": 2}},
    "dino": {
        "objective.model": {"pool": "cls", **TOWER},
        "objective.prototypes": 32,
        "objective.hidden_dim": 32,
        "objective.centering": "centre",
    },
}
SHORT = {"total": 6, "batch_size": 16, "ema_decay": 0.9, "log_every": 2, "checkpoint": {"every": 3, "keep": 2}}


@pytest.mark.parametrize("name", CHANGES)
def test_a_resumed_run_equals_one_that_never_stopped(name: str, tmp_path: pathlib.Path) -> None:
    changes = {**SHORT, "evals": {}, "compile_cache": str(tmp_path / "compiled"), **CHANGES[name]}
    pairs = [(key, value if isinstance(value, str) else repr(value)) for key, value in changes.items()]
    config = ml_collections.ConfigDict(config_lib.load_file(f"configs/{name}.py:tiny"))
    overrides.apply(config, pairs, "--config")
    train_lib.train(config, str(tmp_path / "whole"))
    whole, rows = tiny.state(tmp_path / "whole", 6), tiny.rows(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/checkpoints/6")
    (tmp_path / "stopped/result.json").unlink()
    train_lib.train(config, str(tmp_path / "stopped"))
    tiny.assert_equal_bits(tiny.state(tmp_path / "stopped", 6), whole)
    assert tiny.rows(tmp_path / "stopped") == rows
    before = tiny.state(tmp_path / "stopped", 3)
    assert any(before[leaf].tobytes() != whole[leaf].tobytes() for leaf in whole if leaf.startswith("params"))
