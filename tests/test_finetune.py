"""The fine-tuning recipe finds the encoder of any objective's run, with the shapes and places its checkpoint has."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import config, recipe, tree
from vitfm.checkpoint import warm_start
from vitfm.checkpoint.manager import Checkpoints
from vitfm.data.facts import Facts
from vitfm.models import resizing
from vitfm.objectives import base

FILE = str(pathlib.Path(__file__).parents[1] / "configs/finetune.py")
VIT = {"patch_size": 8, "hidden_dim": 16, "depth": 2, "num_heads": 2}
OBJECTIVES = {
    "supervised": {"model": {"name": "vit", **VIT, "image_size": 32, "pool": "cls"}},
    "mae": {"model": VIT, "decoder": {"hidden_dim": 16, "depth": 1, "num_heads": 2}},
    "simmim": {"model": VIT, "mask_size": 16},
    "aim": {"model": VIT, "head": {"hidden_dim": 16, "depth": 1}},
    "simclr": {"model": VIT},
    "rotation": {"model": {**VIT, "pool": "cls"}},
    "moco": {"model": VIT, "version": "v3"},
    "dinov2": {"model": VIT, "prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 4},
    "dino": {"model": {**VIT, "pool": "cls", "scan": True}, "prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 4},
    "clip": {
        "image": {"name": "vit", "stem": "conv", **VIT, "patch_size": 16},
        "text": {"name": "text", "hidden_dim": 16, "depth": 1, "num_heads": 2},
    },
}
OBJECTIVES["siglip"] = OBJECTIVES["clip"]
DECODER = {"depth": 1, "num_heads": 2}
OBJECTIVES["coca"] = {
    "image": {"name": "vit", **VIT},
    "text": {"hidden_dim": 16, **DECODER},
    "pooler": {"queries": 2, "num_heads": 2},
    "captioner": DECODER,
}
OBJECTIVES["siglip2"] = {
    "image": {"name": "vit", **VIT},
    "text": {"name": "text", "hidden_dim": 16, **DECODER},
    **{"prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 4},
}


def shapes(objective: dict[str, Any], image_size: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every leaf of a state's params and extra."""
    facts = Facts(image_size, 3, 20, 6, ("a", "b", "c"), bos_id=1)
    schedule = lambda spec, where: lambda step: 0.5
    made = base.make(objective, data=facts, dtype=jnp.float32, schedule=schedule)
    image = jnp.zeros((1, image_size, image_size, 3))
    views = {"global": image[:, None].repeat(1 if objective["name"] == "siglip2" else 2, 1)}
    if objective["name"] in ("dino", "dinov2", "siglip2"):
        views["local"] = image[:, None, :16, :16]
    text = {"text": jnp.zeros((1, 6), int), "text_mask": jnp.ones((1, 6), bool)}
    batch = {"image": image, "views": views, "label": jnp.zeros(1, int), **text}
    variables = jax.eval_shape(lambda key: made.init(key, batch), jax.random.key(0))
    state = {"params": variables.params, "extra": variables.extra}
    return {name: leaf.shape for name, leaf in tree.named_leaves(state)}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("image_size", [32, 64])
def test_every_objectives_encoder_fits(name: str, image_size: int, tmp_path: pathlib.Path):
    source = {"objective": {"name": name, **OBJECTIVES[name]}, "data": {"image_size": 32}}
    (tmp_path / "config.json").write_text(json.dumps(source))
    found = recipe.plain(config.load_file(f"{FILE}:{tmp_path}"))
    assert found["init"]["run"] == str(tmp_path)
    assert found["data"]["image_size"] == 32
    state = shapes(found["objective"], image_size)
    params = {leaf.removeprefix("params/"): shape for leaf, shape in state.items()}
    head = {leaf for leaf in params if leaf.startswith("head/")}
    rows = warm_start.plan(
        params, shapes(source["objective"], 32), found["init"]["take"], head, resizing.make(), where="the run"
    )
    assert {row.name for row in rows if row.what == "fresh"} == head
    resized = {row.name for row in rows if row.what == "resized"}
    assert resized == ({"encoder/position"} if image_size == 64 and name not in ("mae", "aim") else set())


def test_without_a_run_it_is_that_of_mae():
    found, mae = (recipe.plain(config.load_file(FILE.replace("finetune", name))) for name in ("finetune", "mae"))
    assert found["init"]["run"] == "runs/mae"
    assert mae["objective"]["model"].items() <= found["objective"]["model"].items()


def test_other_folders_and_objectives_are_refused(tmp_path: pathlib.Path):
    with pytest.raises(config.ConfigError, match=r"no run in '.*': it holds no config\.json"):
        config.load_file(f"{FILE}:{tmp_path}")
    (tmp_path / "config.json").write_text('{"objective": {"name": "my.own"}, "data": {}}')
    with pytest.raises(config.ConfigError, match=r"learned 'my\.own', .* supervised, .*clip, siglip\. Add where"):
        config.load_file(f"{FILE}:{tmp_path}")


@pytest.mark.slow
def test_a_run_is_fine_tuned_at_a_higher_resolution(tmp_path: pathlib.Path):
    """From the command line, as the recipe's header says: the head alone, on larger images."""

    def train(file: str, workdir: pathlib.Path, *overrides: str) -> str:
        config_file = f"--config={FILE.replace('finetune.py', file)}"
        short = ("--config.total=2 steps", "--config.batch_size=8", "--config.evals={}", "--config.compile_cache=None")
        command = [sys.executable, "-m", "vitfm.main", config_file, f"--workdir={workdir}", *short, *overrides]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=True)
        return done.stdout

    source, tuned = tmp_path / "supervised", tmp_path / "tuned"
    train("supervised.py", source, "--config.objective.model.position=learned")
    head = '--config.optim.freeze=["encoder"]'
    said = train(f"finetune.py:{source}", tuned, "--config.data.image_size=96", head)
    assert "resized" in said and "fresh" in said
    before, after = (Checkpoints(run / "checkpoints") for run in (source, tuned))
    assert after.meta()["lineage"]["resized"] == {"encoder/position": "antialiased, grid 8 x 8 -> 12 x 12"}
    kernel = "params/encoder/transformer/norm/scale"
    np.testing.assert_array_equal(before.restore_subtree(kernel), after.restore_subtree(kernel))
    assert np.any(after.restore_subtree("params/head/logits/kernel"))  # It began with zeros.
