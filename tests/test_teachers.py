"""Frozen teachers: read once, described in the run, never moved, and not needed again."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

import vitfm
from tests import tiny
from tests.interop import folders
from vitfm import config as config_lib
from vitfm import program, teachers, train_lib
from vitfm import recipe as recipes
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import ConfigError
from vitfm.data import augment, pipeline
from vitfm.interop import exported, imported
from vitfm.objectives.base import FROZEN

VIT = {"name": "vit", "patch_size": 8, "hidden_dim": 16, "depth": 1, "num_heads": 2, "epsilon": 1e-12}
DATA = {"source": "tfds:emoji:train", "image_size": 24, "alpha": True}
LABEL = {"label": {"feature": "group"}}
STEPS = {"total": "2 steps", "batch_size": 8, "log_every": 2}
TOKENS = {"distillation_token": True, "pool": "cls_dist", "class_position": True, "position_resize": "bicubic"}
DEIT = {"name": "deit", "model": {**VIT, **TOKENS}}
DISTILL = {"name": "distill", "model": VIT, "patches": 1.0}


def run(objective: Mapping[str, Any], workdir: pathlib.Path, data: Mapping[str, Any], **keys: Any) -> pathlib.Path:
    config = {**STEPS, "objective": objective, "data": {**DATA, **data}, "compile_cache": None, **keys}
    train_lib.train(config, str(workdir))
    return workdir


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A trained teacher with batch statistics."""
    model = {"name": "resnet", "stem_dim": 8, "depths": (1,), "hidden_dims": (16,)}
    objective = {"name": "supervised", "model": model, "head_init": "fan_in"}
    return run(objective, tmp_path_factory.mktemp("teachers") / "classifier", LABEL)


def frozen(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """What a run has of its teacher."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return dict(config_lib.flatten(checkpoints.restore_subtree(f"extra/{FROZEN}")))


def test_a_run_of_ours_teaches_and_is_not_needed_again(classifier: pathlib.Path, tmp_path: pathlib.Path):
    """And what it taught opens in transformers, as the DeiT that it is."""
    source = shutil.copytree(classifier, tmp_path / "teacher")
    workdir = run(DEIT, tmp_path / "deit", LABEL, teacher={"run": str(source)})
    tiny.assert_equal_bits(frozen(workdir), dict(config_lib.flatten(vitfm.load(str(source)).params)))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        lineage = checkpoints.meta()["lineage"]["teacher"]
    assert (lineage["run"], lineage["step"]) == (str(source), 2) and len(lineage["hash"]) == 64
    shutil.rmtree(source)
    image = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    assert vitfm.load(str(workdir)).logits(image).shape == (3, 9)
    config = {**STEPS, "objective": DEIT, "data": {**DATA, **LABEL}, "compile_cache": None}
    assert train_lib.train({**config, "teacher": {"run": str(source)}}, str(workdir))["step"] == 2  # It knows it still.
    written = exported.write(str(workdir), str(tmp_path / "folder"))
    assert json.loads((written.path / "config.json").read_text())["architectures"] == [
        "DeiTForImageClassificationWithTeacher"
    ]
    assert not [name for name in written.tensors if FROZEN in name]


def test_a_folder_of_another_library_teaches(tmp_path: pathlib.Path):
    folder = folders.write(tmp_path / "folder")
    workdir = run(DISTILL, tmp_path / "distilled", {}, teacher={"run": str(folder)})
    tiny.assert_equal_bits(frozen(workdir), dict(config_lib.flatten(imported.read(folder).state["params"])))
    described = json.loads((workdir / "config.json").read_text())["teacher"]
    assert described["objective"]["name"] == "supervised" and described["data"]["image_size"] == 16


def test_the_teacher_sees_the_same_picture_as_if_it_were_its_own():
    here, there = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}, {"mean": (0.7, 0.5, 0.3), "std": (0.2, 0.3, 0.9)}
    image = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    seen = lambda options: pipeline.make(source=None, image_size=12, augment=options).preprocess_eval({"image": image})
    for size in (12, 30):
        ours = augment.adapting(here, there, size)(seen(here)["image"])
        expected = jax.image.resize(seen(there)["image"], (2, size, size, 3), "linear")
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert augment.adapting(here, {}, 12)(seen(here)["image"]).std() > 0.1


@pytest.mark.parametrize(
    ("objective", "data", "teacher", "message"),
    [
        (DISTILL, {}, None, r"learns from a trained model: set config\.teacher = \{'run': DIR\}"),
        (DEIT, LABEL, None, r"learns from a trained model: set config\.teacher"),
        (
            DISTILL,
            {},
            {"run": "nowhere"},
            r"config\.teacher\.run = 'nowhere' holds neither a run nor",
        ),
        (DISTILL, {}, {"path": "x"}, r"Unknown key config\.teacher\.path"),
        ({"name": "mae", "model": {"patch_size": 8}}, {}, {}, "objective 'mae' learns from no teacher; leave it out"),
        (DEIT, {"label": {"feature": "subgroup"}}, {}, r"knows 9 classes, and config\.data\.label makes 98"),
        ({**DEIT, "balance": 1.5}, LABEL, {}, r"config\.objective\.balance = 1\.5 must be from 0 to 1"),
        ({**DEIT, "temperature": 0.0}, LABEL, {}, r"config\.objective\.temperature = 0\.0 must be above 0"),
        ({**DISTILL, "pooled": 0.0, "patches": 0.0}, {}, {}, "not all 0"),
    ],
)
def test_what_cannot_be_is_refused(
    objective: Any, data: Any, teacher: Any, message: str, classifier: pathlib.Path, tmp_path: pathlib.Path
):
    teacher = {"run": str(classifier)} if teacher == {} else teacher
    with pytest.raises(ConfigError, match=message):
        run(objective, tmp_path / "run", data, teacher=teacher)


def test_classes_in_another_order_are_refused(classifier: pathlib.Path, tmp_path: pathlib.Path):
    classes = list(reversed(json.loads((classifier / "config.json").read_text())["data"]["label"]["classes"]))
    label = {"label": {"feature": "group", "classes": classes, "multi_label": False}}
    with pytest.raises(ConfigError, match=r"in another order: set config\.data\.label\.classes"):
        run(DEIT, tmp_path / "run", label, teacher={"run": str(classifier)})


def test_a_teacher_that_lacks_what_is_asked_for_is_refused(tmp_path: pathlib.Path):
    folder = folders.write(tmp_path / "folder", architectures=["ViTModel"])
    objective = {**DISTILL, "logits": 1.0}
    with pytest.raises(ConfigError, match=r"learns from a teacher's 'logits'; it offers attention, embed_image"):
        run(objective, tmp_path / "run", {}, teacher={"run": str(folder)})


def test_a_description_alone_is_enough_to_build_and_not_to_start(tmp_path: pathlib.Path):
    """Shapes follow from it; the weights of another model than it says are refused by name."""
    folder = folders.write(tmp_path / "folder")
    found = imported.read(folder).config
    config = {**STEPS, "objective": DISTILL, "data": DATA}
    wide = {**found["objective"], "model": {**found["objective"]["model"], "hidden_dim": 32}}
    teacher = {"run": "elsewhere", "objective": wide, "data": found["data"]}
    assert teachers.described({**config, "teacher": teacher}, str(tmp_path / "run"))["teacher"] == teacher
    parsed = recipes.parse({**config, "teacher": {**teacher, "run": str(folder)}})
    with pytest.raises(ConfigError, match=r"is not what config\.teacher\.objective and \.data describe; these differ"):
        teachers.read(program.build(parsed))
