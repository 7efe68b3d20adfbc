"""Any objective goes on from an encoder alone, as other libraries store it, and its new heads learn first."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests import tiny
from tests.interop import folders
from tests.parity.family import randomise
from tests.parity.reference import transformers
from vitfm import config as config_lib
from vitfm import train_lib
from vitfm.checkpoint.manager import Checkpoints
from vitfm.interop import imported

STILL, TOTAL = 2, 4  # Steps in which the encoder stands still, and of the run.
VIEW = {"crop": {"scale": (0.4, 1.0)}}
TEXT = {"name": "text", "hidden_dim": 16, "depth": 1, "num_heads": 2}
HEADS = {"prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 4, "momentum": 0.9}
# Objective -> where its encoder lies, what is fresh, what its recipe says of objective and data beside the encoder.
OBJECTIVES: Mapping[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "dino": ("encoder", "^head", HEADS, {"views": {"global": {"count": 2, **VIEW}}}),
    "dinov2": ("encoder", "^(patch_)?head", HEADS, {"views": {"global": {"count": 2, **VIEW}}}),
    "mae": ("encoder", "^decoder", {"decoder": {"hidden_dim": 16, "depth": 1, "num_heads": 2}}, {}),
    "supervised": ("encoder", "^head", {}, {"label": {"feature": "subgroup"}}),
    "clip": ("image/tower", "projection|^text|^logit_scale", {"text": TEXT, "embed_dim": 8}, {}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Folders of transformers' with random weights: a DINOv2 for DINO and itself, a classifier for the others."""
    folder = tmp_path_factory.mktemp("continued")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    module = transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2))
    randomise(module, 0)
    module.save_pretrained(folder / "dinov2")
    classifier = folders.write(folder / "vit")
    return {name: folder / "dinov2" if "dino" in name else classifier for name in OBJECTIVES}


def recipe(name: str, source: pathlib.Path) -> dict[str, Any]:
    """Everything that could move the encoder is on: momentum, weight decay, clipping, averaging."""
    encoder, fresh, options, data = OBJECTIVES[name]
    model = dict(imported.read(source).config["objective"]["model"])
    del model["image_size"]  # The images are larger, so positions are resized.
    model.setdefault("position", "learned")  # What a ViT has and an MAE has not, where a recipe doesn't say.
    config = tiny.get_config().to_dict()
    part = "image" if name == "clip" else "model"
    text = {key: config["data"].pop(key) for key in ("captions", "tokenizer", "columns")}
    config["data"] |= {"threads": 1, **data, **(text if name == "clip" else {})}
    return config | {
        "total": TOTAL,
        "batch_size": 8,
        "objective": {"name": name, part: model, **options},
        "init": {"run": str(source), "take": {encoder: "encoder"}, "fresh": [fresh]},
        "optim": {
            "name": "adamw",
            "learning_rate": 0.01,
            "schedule": {"name": "constant"},
            "weight_decay": 0.5,
            "freeze": [(f"^{encoder}/", f"{100 * STILL // TOTAL}%")],
        },
        "ema_decay": 0.5,
        "checkpoint": {"every": 1, "keep": TOTAL},
        "evals": {},
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "dino" else pytest.mark.slow) for name in OBJECTIVES]
)
def test_heads_learn_first(name: str, sources: dict[str, pathlib.Path], tmp_path: pathlib.Path):
    config, workdir = recipe(name, sources[name]), tmp_path / name
    train_lib.train(config, str(workdir))
    states = {step: tiny.state(workdir, step) for step in range(1, TOTAL + 1)}
    encoder = f"params.{OBJECTIVES[name][0].replace('/', '.')}."
    lineage = Checkpoints(workdir / "checkpoints").meta(TOTAL)["lineage"]
    resized = {OBJECTIVES[name][0] + "/position": "bicubic, grid 2 x 2 -> 4 x 4"}
    assert lineage["resized"] == resized and lineage["run"] == str(sources[name])

    there = imported.leaves(imported.read(sources[name]).state)
    inner = [leaf for leaf in states[1] if leaf.startswith(encoder)]
    for leaf in inner:
        if not leaf.endswith(".position"):
            old = there["params/encoder/" + leaf.removeprefix(encoder).replace(".", "/")]
            np.testing.assert_array_equal(states[1][leaf], old, err_msg=leaf)
    same = lambda leaf, one, other: np.array_equal(states[one][leaf], states[other][leaf])
    assert len(inner) > 10
    assert all(same(leaf, 1, STILL) for leaf in inner)
    unused = "mask_token"  # No gradient and no decay.
    assert not any(same(leaf, STILL, STILL + 1) for leaf in inner if unused not in leaf)
    averaged = [leaf.replace("params.", "ema.", 1) for leaf in inner]
    averaged += [leaf for leaf in states[1] if leaf.startswith("extra.teacher.encoder.")]
    assert all(np.allclose(states[1][leaf], states[STILL][leaf], rtol=1e-6) for leaf in averaged)

    heads = [leaf for leaf in states[1] if leaf.startswith("params.") and leaf not in inner]
    assert heads and not all(same(leaf, 1, STILL) for leaf in heads)
    moments = [leaf for leaf in states[1] if ".mu." in leaf or ".nu." in leaf]
    own = [leaf for leaf in moments if encoder.removeprefix("params") in leaf]
    assert len(own) == 2 * len(inner)
    for leaf in own:
        assert not states[STILL][leaf].any(), leaf
        assert states[STILL + 1][leaf].any() or unused in leaf, leaf

    for step in range(STILL, TOTAL + 1):  # Going on from before the encoder moves.
        shutil.rmtree(workdir / f"checkpoints/{step}")
    train_lib.train(config, str(workdir))
    tiny.assert_equal_bits(tiny.state(workdir, TOTAL), states[TOTAL])


def test_batch_statistics_come_along(tmp_path: pathlib.Path):
    """Through the whole loop: with nothing learned and a momentum of 0 a run ends with what it started from."""
    config = recipe("supervised", folders.write(tmp_path / "vit")) | {"total": 2, "ema_decay": None, "checkpoint": {}}
    model = {"name": "resnet", "stem_dim": 8, "depths": (1, 1), "hidden_dims": (16, 32)}
    config["optim"] = {"name": "adamw", "learning_rate": 0.01}
    config["objective"]["model"] = model
    first = {key: value for key, value in config.items() if key != "init"}
    train_lib.train(first, str(tmp_path / "first"))
    config["objective"]["model"] = {**model, "momentum": 0.0}
    config["optim"] |= {"learning_rate": 0.0}
    config["init"] = {"run": str(tmp_path / "first")}
    train_lib.train(config, str(tmp_path / "second"))
    parts = ("extra.batch_stats.", "params.encoder.")
    one, other = (
        {name: leaf for name, leaf in tiny.state(tmp_path / run, 2).items() if name.startswith(parts)}
        for run in ("first", "second")
    )
    assert one["extra.batch_stats.stem_norm.mean"].any()
    tiny.assert_equal_bits(one, other)
    lineage = Checkpoints(tmp_path / "second/checkpoints").meta(2)["lineage"]
    assert "extra/batch_stats/stem_norm/mean" in lineage["taken"]
    assert all(name.startswith("head/") for name in lineage["fresh"])


def test_dinov2_goes_on_at_a_higher_resolution(tmp_path: pathlib.Path):
    """As configs/dinov2_l16_in1k.py:highres says, of a run with two heads: nothing is learned, so all is as it was."""
    take = dict(config_lib.load_file("configs/dinov2_l16_in1k.py:highres").init.take)
    config = recipe("supervised", folders.write(tmp_path / "vit")) | {"ema_decay": None}
    config["data"] |= {"label": None, "views": {"global": {"count": 2, **VIEW}}}
    config["objective"] |= {"name": "dinov2", **HEADS, "momentum": 0.5}
    first = {key: value for key, value in config.items() if key != "init"} | {"total": 2}
    first["optim"] = {"name": "adamw", "learning_rate": 0.01}
    train_lib.train(first, str(tmp_path / "first"))
    config["data"]["image_size"] = 48
    config["init"] = {"run": str(tmp_path / "first"), "take": take | {"patch_head": "extra/teacher/patch_head"}}
    config["optim"] = {"name": "adamw", "learning_rate": 0.0}
    train_lib.train(config | {"total": 1}, str(tmp_path / "second"))

    old, new = tiny.state(tmp_path / "first", 2), tiny.state(tmp_path / "second", 1)
    teacher = {name: leaf for name, leaf in old.items() if name.startswith("extra.teacher.")}
    assert {name.split(".")[2] for name in teacher} == {"encoder", "head", "patch_head"}
    position = "encoder.position"
    for name, leaf in teacher.items():
        part = name.removeprefix("extra.teacher.")
        if part != position:
            np.testing.assert_array_equal(new[f"params.{part}"], leaf, err_msg=part)
            np.testing.assert_array_equal(new[name], leaf, err_msg=part)
    moved = [name for name in teacher if np.any(old[name] != old[name.replace("extra.teacher", "params")])]
    assert {name.split(".")[2] for name in moved} == {"encoder", "head", "patch_head"}  # It was not the student's.
    assert new[f"params.{position}"].shape[:2] == (6, 6) and old[f"params.{position}"].shape[:2] == (4, 4)
    lineage = Checkpoints(tmp_path / "second/checkpoints").meta(1)["lineage"]
    assert list(lineage["resized"]) == ["encoder/position"] and not lineage["fresh"]
