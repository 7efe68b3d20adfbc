"""Each recipe of the folder in its minute's form, shortened: it trains, is evaluated, is reported, and opens again.

Those that learn from a trained model, or start from one, are given the rehearsal of what their own header names.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

import vitfm
from tests import tiny
from vitfm import config as config_lib
from vitfm import recipe as recipes
from vitfm import train_lib
from vitfm.metrics import runs
from vitfm.parallel import mesh as meshes

CONFIGS = tiny.ROOT / "configs"
RECIPES = [path.stem for path in sorted(CONFIGS.glob("*.py")) if '"tiny"' in path.read_text()]
TEACHERS = {"deit": "deit:teacher_tiny", "distill": "clip:tiny", "vqkd": "clip:tiny", "beit": "vqkd:tiny"}
SPLITS = ("test_style", "test_concept", "validation")
PROBES = ("knn", "linear_probe", "fewshot", "attentive_probe")


@pytest.fixture(scope="module", autouse=True)
def _one_device() -> Iterator[None]:
    """As on a laptop, for which they are; that eight give what one gives is shown elsewhere."""
    make = meshes.make
    with pytest.MonkeyPatch.context() as patch:
        on_one = functools.wraps(make)(lambda **spec: make(**{**spec, "devices": jax.devices()[:1]}))
        patch.setattr(meshes, "make", on_one)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("recipes")


def rehearsed(name: str, folder: pathlib.Path) -> pathlib.Path:
    """The workdir of a recipe's run, trained where it has not been yet."""
    recipe, _, arg = name.partition(":")
    workdir = folder / f"{recipe}_{pathlib.Path(arg).name}"
    if (workdir / "result.json").exists():
        return workdir
    short = {
        "total": "4 steps",
        "log_every": 2,
        "checkpoint": {"every": "100%"},
        "compile_cache": str(folder / "compiled"),
    }
    config = recipes.plain(config_lib.load_file(f"{CONFIGS / recipe}.py:{arg}")) | short
    if recipe in TEACHERS and arg == "tiny":
        config["teacher"] = {"run": str(rehearsed(TEACHERS[recipe], folder))}
    if recipe != "supervised":  # Probes are the same for all, and take longer than all else here.
        config["evals"] = {name: spec for name, spec in config["evals"].items() if spec["name"] not in PROBES}
    for spec in config["evals"].values():  # Of four steps each would be measured, on all images.
        spec.pop("every", None)
        spec.update({key: f"{spec[key]}[:20%]" for key in ("source", "test") if spec.get(key, "").endswith(SPLITS)})
    if "/" in arg:  # A run to start from: this recipe has no minute's form.
        config |= {"batch_size": 16, "evals": {}}
    train_lib.train(config, str(workdir))
    return workdir


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_rehearsed(name: str, folder: pathlib.Path):
    workdir = rehearsed(f"{name}:tiny", folder)
    rows = tiny.rows(workdir)
    assert [row["step"] for row in rows if "loss" in row] == [2, 4]
    assert all(math.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert (workdir / "report.html").stat().st_size > 10_000
    run = vitfm.load(str(workdir))
    size = run.config["data"]["image_size"]
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    features = run.embed_image(images)
    assert features.dtype == np.float32 and len(features) == 2 and np.isfinite(features).all()
    measured = {tuple(metric.split("/")[:2]) for row in rows for metric in row if runs.is_evaluation(metric)}
    drawn = {tuple(path.name.split("__")[:2]) for path in (workdir / "pictures").glob("*.png")}
    assert {spec["prefix"] for spec in run.config["evals"].values()} <= {split for split, *_ in measured | drawn}


@pytest.mark.parametrize(("name", "before"), [("finetune", "mae:tiny"), ("lit", "mae:tiny")])
def test_a_recipe_that_starts_from_a_run_is_rehearsed(name: str, before: str, folder: pathlib.Path):
    workdir = rehearsed(f"{name}:{rehearsed(before, folder)}", folder)
    assert [math.isfinite(row["loss"]) for row in tiny.rows(workdir) if "loss" in row] == [True, True]
