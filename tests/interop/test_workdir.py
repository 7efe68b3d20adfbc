"""An imported model is a run: it loads, evaluates and starts others; its own folder does so without an import."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import vitfm
from tests import tiny
from tests.interop import folders
from vitfm import config as config_lib
from vitfm import train_lib
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import ConfigError
from vitfm.evals import __main__ as evals
from vitfm.interop import __main__ as command
from vitfm.interop import imported


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return folders.write(tmp_path_factory.mktemp("interop") / "vit")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    assert command.main(["import", str(folder), str(folder.parent / "run")]) == 0
    return folder.parent / "run"


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ((16, 16), (40, 25))]


def test_the_folder_and_its_import_answer_alike(folder: pathlib.Path, run: pathlib.Path):
    here, there = vitfm.load(str(folder)), vitfm.load(str(run))
    np.testing.assert_array_equal(here.logits(pictures()), there.logits(pictures()))
    assert here.config.to_dict() == there.config.to_dict()
    assert list(there.config.data.label.classes) == ["cat", "dog", "crane (2)", "crane (3)"]


def test_the_checkpoint_says_where_it_is_from(folder: pathlib.Path, run: pathlib.Path):
    lineage = Checkpoints(run / "checkpoints").meta()["lineage"]
    assert (lineage["run"], lineage["format"], lineage["family"]) == (str(folder), "transformers", "vit")
    assert len(lineage["taken"]) == len(folders.tensors(folders.CONFIG)) and len(lineage["hash"]) == 64


def test_import_prints_what_was_taken(folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    assert command.main(["import", str(folder), str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    for word in ("vit of transformers", "encoder/transformer", "epsilon = 1e-06", "bilinear", "index behind it: crane"):
        assert word in printed
    assert command.main(["import", str(folder), str(tmp_path / "run")]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_a_changed_identity_is_refused(run: pathlib.Path, tmp_path: pathlib.Path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    config["objective"]["model"]["epsilon"] = 1e-5
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"objective.model.epsilon: 1e-06 -> 1e-05"):
        vitfm.load(str(tmp_path / "run"))


def test_evaluators_run_on_it(run: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    options = ["--train=tfds:emoji:validation[:40]", "--test=tfds:emoji:validation[:40]", "--label=group"]
    assert evals.main([f"--run={run}", "--eval=knn", *options]) == 0
    assert "knn" in capsys.readouterr().out
    assert evals.main([f"--run={run}", "--eval=knn", "--random", *options]) == 2
    assert "imported" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["folder", "run"])
def test_a_run_starts_from_it(source: str, folder: pathlib.Path, run: pathlib.Path, tmp_path: pathlib.Path):
    config = config_lib.load_file("configs/supervised.py:tiny").to_dict()
    config["objective"]["model"] = vitfm.load(str(run)).config.objective.model.to_dict()
    config["data"] |= {"image_size": 16}
    config |= {"total": 1, "batch_size": 8, "evals": {}, "checkpoint": {}, "accumulate": 1}
    config["init"] = {"run": str(run if source == "run" else folder)}
    config["optim"] = {"name": "adamw", "learning_rate": 1e-30}
    train_lib.train(config, str(tmp_path / "new"))
    new = Checkpoints(tmp_path / "new" / "checkpoints")
    old = imported.leaves(imported.read(folder).state["params"]["encoder"])
    for name, array in imported.leaves(new.restore_subtree("params/encoder")).items():
        np.testing.assert_allclose(array, old[name], atol=1e-6)
    assert new.meta()["lineage"]["run"] == config["init"]["run"]
    assert new.meta()["lineage"]["fresh"] == ["head/logits/bias", "head/logits/kernel"]


def test_an_imported_model_does_not_train(run: pathlib.Path, tmp_path: pathlib.Path):
    config = json.loads((run / "config.json").read_text()) | {"batch_size": 8}
    with pytest.raises(ConfigError, match=r"config.data.source is None"):
        train_lib.train(config, str(tmp_path / "new"))


_WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "timm", "open_clip", "torchvision"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Refuse())
import numpy as np, vitfm
from vitfm.interop import __main__ as command
run = vitfm.load(sys.argv[1])
print(run.embed_image(np.zeros((1, 20, 30, 3), np.uint8)).shape)
assert command.main(["export", sys.argv[1], sys.argv[2], "--format=timm"]) == 0
assert not {"torch", "transformers", "timm"} & set(sys.modules)
"""


def test_torch_is_not_needed(folder: pathlib.Path, tmp_path: pathlib.Path):
    command = [sys.executable, "-c", _WITHOUT_TORCH, str(folder), str(tmp_path / "timm")]
    done = subprocess.run(command, cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "(1, 16)" in done.stdout and "vit of timm" in done.stdout
