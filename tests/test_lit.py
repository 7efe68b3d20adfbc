"""LiT is configuration: an image tower that a run gave, frozen, beside a text tower that learns."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from tests import tiers, tiny
from vitfm import config as config_lib
from vitfm import recipe, train_lib
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import ConfigError

ROOM = pathlib.Path(__file__).parents[1] / "configs"
NORMALISED = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}  # Not a recipe's own.
SHORT = {"total": "3 steps", "batch_size": 16, "evals": {}, "log_every": 3, "checkpoint": {}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with an encoder that has moved from its start."""
    workdir = tmp_path_factory.mktemp("lit") / "supervised"
    config = config_lib.load_file(str(ROOM / "supervised.py:tiny")).to_dict()
    config["data"]["augment"] |= NORMALISED
    train_lib.train({**config, **SHORT, "compile_cache": None}, str(workdir))
    return workdir


def trained(config: dict[str, Any], workdir: pathlib.Path) -> Checkpoints:
    train_lib.train({**config, **SHORT, "compile_cache": None}, str(workdir))
    return Checkpoints(workdir / "checkpoints")


@pytest.mark.parametrize("name", tiers.slow_unless("siglip".__eq__, ["siglip", "clip"]))
def test_the_locked_tower_stays_and_the_text_tower_moves(name: str, source: pathlib.Path, tmp_path: pathlib.Path):
    config = config_lib.load_file(f"{ROOM / 'lit.py'}:{source}").to_dict()
    assert {key: list(config["data"]["augment"][key]) for key in NORMALISED} == NORMALISED
    if name == "clip":
        objective = config["objective"]
        config["objective"] = {
            "name": "clip",
            "embed_dim": None,
            "image": objective["image"],
            "text": objective["text"],
        }
    new, old = trained(config, tmp_path / "run"), Checkpoints(source / "checkpoints")
    tower = dict(config_lib.flatten(new.restore_subtree("params/image/tower")))
    tiny.assert_equal_bits(tower, dict(config_lib.flatten(old.restore_subtree("params/encoder"))))
    start = trained({**config, "optim": {**config["optim"], "learning_rate": 1e-30}}, tmp_path / "start")
    for part in ("params/text/tower/transformer/norm/scale", "params/logit_scale"):
        assert np.any(new.restore_subtree(part) != start.restore_subtree(part)), part
    assert new.meta()["lineage"]["run"] == str(source)
    assert all(leaf.startswith(("text/", "logit_")) for leaf in new.meta()["lineage"]["fresh"])


def test_widths_that_differ_without_a_projection_are_refused():
    config = config_lib.load_file(str(ROOM / "siglip.py:tiny")).to_dict()
    config["objective"]["text"] |= {"projection_dim": 32}
    parsed = recipe.parse(config)
    with pytest.raises(ConfigError, match=r"embed_dim = None makes no projections, and the towers are 64 and 32 wide"):
        recipe.make_objective(parsed, recipe.make_data(parsed))
