"""Whatever an objective keeps from step to step, its run goes on as if it had never stopped, bit for bit."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from tests import tiny
from vitfm import config as config_lib
from vitfm import train_lib

TOWER = {"patch_size": 16, "hidden_dim": 32, "depth": 2, "num_heads": 2}
CHANGES = {
    "supervised": {"model": {**TOWER, "drop_path_rate": 0.2}},
    "mae": {"model": TOWER, "decoder": {"hidden_dim": 16, "depth": 1, "num_heads": 2}},
    "dino": {"model": TOWER, "prototypes": 32, "hidden_dim": 32, "bottleneck_dim": 16},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_resumed_run_equals_one_that_never_stopped(name: str, tmp_path: pathlib.Path) -> None:
    config = config_lib.load_file(f"configs/{name}.py:tiny")
    config.update({"total": 6, "batch_size": 16, "evals": {}, "ema_decay": 0.9, "log_every": 2})
    config.update({"checkpoint": {"every": 3, "keep": 2}, "compile_cache": str(tmp_path / "compiled")})
    for part, options in CHANGES[name].items():
        old = config.objective.get(part)
        config.objective[part] = (
            {**(old.to_dict() if hasattr(old, "to_dict") else {}), **options} if isinstance(options, dict) else options
        )
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
