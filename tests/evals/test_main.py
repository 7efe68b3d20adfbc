"""`python -m vitfm.evals` measures what training measured, adds to the run, and says what is wrong in one message."""

import json
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from tests import tiny
from vitfm import evaluate, overrides, program, train_lib
from vitfm import main as training
from vitfm import recipe as recipes
from vitfm import run as runs
from vitfm.evals import __main__ as command
from vitfm.evals import base as evaluation
from vitfm.metrics import runs as written

TOTAL = 5
VALIDATION = "tfds:emoji:validation"
PROBE = [f"--train={VALIDATION}[:96]", f"--test={VALIDATION}[:40]", "--label=group"]
PREFIX = "validation_40"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of five steps with a class token and a moving average, evaluated at its end."""
    workdir = tmp_path_factory.mktemp("evals") / "clip"
    changes = [f"--config.total={TOTAL}", "--config.ema_decay=0.5", "--config.objective.image.pool=cls"]
    words = tiny.arguments(workdir, *changes)
    arguments, pairs = training._parse(words)
    train_lib.train(overrides.load(arguments.config, pairs), str(workdir))
    return workdir


@pytest.fixture
def workdir(finished: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("compiled"))


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def result(workdir: pathlib.Path) -> dict[str, Any]:
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.parametrize(
    ("source", "prefix"),
    [
        ("tfds:emoji:test_style", "test_style"),
        ("tfds:emoji:validation[1:5]", "validation_1_5"),
        ("tfds:emoji:test_concept#where=style:noto", "test_concept_where_style_noto"),
        ("folder:/my/images#:90%", "my_images_to_90"),
        ("folder:/my/images#90%:&by=kind", "my_images_90_to_by_kind"),
    ],
)
def test_metrics_are_named_after_what_is_measured(source: str, prefix: str) -> None:
    given = {"train": None, "test": source, "label": "subgroup"}
    specs = evaluate.specify({"data": {"source": VALIDATION}}, ["knn"], given, [])
    assert specs["knn"]["prefix"] == prefix and specs["knn"]["test"] == source


def test_it_measures_again_what_training_measured(workdir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, old = rows(workdir), result(workdir)
    assert command.main([f"--run={workdir}"]) == 0
    *kept, new = rows(workdir)
    assert kept == before
    measured = {name: value for name, value in old.items() if "/retrieval/" in name}
    assert {name.split("/")[0] for name in measured} == {"validation", "ema"}
    assert {name: new[name] for name in measured} == pytest.approx(measured)
    assert new["step"] == TOTAL and new["examples"] == TOTAL * 16 and new["seconds"] > 0
    assert result(workdir) == {**old, **{name: new[name] for name in measured}}
    output = capsys.readouterr().out
    assert "validation (1 of 1) at step 5 ..." in output and "validation/retrieval/image_to_text_recall1" in output


def test_evaluators_by_module_join_the_run(workdir: pathlib.Path) -> None:
    old, pictures = result(workdir), {path.name for path in (workdir / "pictures").iterdir()}
    options = ["--evals.features.path=out.npz", "--evals.features.id=codepoint", "--evals.attention.count=2"]
    options += ["--evals.linear_probe.learning_rates=[0.1]", "--evals.fewshot.shots=[1]", "--evals.knn.k=[3, 20]"]
    names = "knn,linear_probe,fewshot,attention,features"
    assert command.main([f"--run={workdir}", f"--eval={names}", *PROBE, *options]) == 0
    new = {name: value for name, value in result(workdir).items() if name not in old}
    kinds = ("knn/top1_k3", "knn/top1", "linear_probe/top1_low", "fewshot/top1_1shot", "features/rows")
    assert new.keys() >= {f"{ema}{PREFIX}/{kind}" for kind in kinds for ema in ("", "ema/")}
    added = rows(workdir)[-5:]  # One an evaluator.
    assert {name: value for row in added for name, value in row.items() if name in new} == new
    assert {path.name for path in (workdir / "pictures").iterdir()} - pictures == {
        f"{ema}{PREFIX}__attention_{TOTAL:08d}.png" for ema in ("", "ema__")
    }
    report = (workdir / "report.html").read_text()
    assert "linear probe" in report and f"{PREFIX}/attention" in report
    assert written.load(workdir).final[f"{PREFIX}/knn/top1"] == new[f"{PREFIX}/knn/top1"]
    with np.load(workdir / "out.npz") as file:
        assert file["features"].shape == (40, 32) and file["id"].dtype.kind == "U"


def test_an_untrained_model_is_measured_under_its_own_name(workdir: pathlib.Path) -> None:
    old = result(workdir)
    arguments = [f"--run={workdir}", "--eval=knn", *PROBE]
    assert command.main([*arguments, "--random"]) == 0
    row = rows(workdir)[-1]
    assert row["step"] == row["examples"] == row["seconds"] == 0
    new = {name: value for name, value in row.items() if name not in ("step", "examples", "seconds")}
    assert {name.split("/")[0] for name in new} == {"untrained"}
    assert result(workdir) == {**old, **new}
    recipe = recipes.parse(json.loads((workdir / "config.json").read_text()))
    p = program.build(recipe)
    spec = {"name": "knn", "train": f"{VALIDATION}[:96]", "test": f"{VALIDATION}[:40]", "label": "group", "prefix": "x"}
    evaluate = evaluation.make("knn", spec, runs.eval_context(p.data, p.objective, p.mesh))
    fresh = dict(evaluate(p.init(jax.random.key(recipe.seed)).params))
    assert {name.replace(f"untrained/{PREFIX}", "x"): value for name, value in new.items()} == fresh


def test_an_earlier_step_leaves_the_result_alone(workdir: pathlib.Path) -> None:
    old = result(workdir)
    assert command.main([f"--run={workdir}", "--step=4", "--eval=knn", *PROBE]) == 0
    assert rows(workdir)[-1]["step"] == 4 and f"{PREFIX}/knn/top1" in rows(workdir)[-1]
    assert result(workdir) == old


def test_a_run_that_goes_on_gets_no_result(workdir: pathlib.Path) -> None:
    (workdir / "result.json").unlink()
    assert command.main([f"--run={workdir}", "--eval=knn", *PROBE]) == 0
    assert f"{PREFIX}/knn/top1" in rows(workdir)[-1]
    assert not (workdir / "result.json").exists() and (workdir / "report.html").is_file()


def test_options_override_the_recipe_and_add_evaluators(workdir: pathlib.Path) -> None:
    assert command.main([f"--run={workdir}", "--evals.validation.top=[2]", "--evals.validation.pictures=0"]) == 0
    assert {name[-1] for name in rows(workdir)[-1] if "/retrieval/" in name} == {"2"}
    mine = {"name": "knn", "train": f"{VALIDATION}[:30]", "test": f"{VALIDATION}[:9]", "label": "group", "prefix": "m"}
    words = [f"--evals.mine.{key}={value}" for key, value in mine.items()]
    assert command.main([f"--run={workdir}", "--eval=mine", *words, "--evals.mine.k", "[2]"]) == 0
    assert {"m/knn/top1_k2", "m/knn/top1", "ema/m/knn/top1"} <= rows(workdir)[-1].keys()


REFUSED = {
    "--eval=kn": r"--eval=kn is no key of the recipe's evals \(validation\)\. .*did you mean 'knn'",
    "--eval=knn": r"--eval=knn needs --test=SOURCE",
    f"--eval=knn --test={VALIDATION}": r"--eval=knn needs --label=FEATURE",
    f"--eval=knn --test={VALIDATION} --label=grup": r"config\.evals\.knn.*'grup': did you mean 'group'",
    "--label=group": r"--label would be read by nobody: validation stand in the recipe",
    f"--eval=features --test={VALIDATION}": r"config\.evals\.features lacks path",
    f"--eval=classification --test={VALIDATION} --label=group": r"needs logits, which this objective does not offer",
    "--evals.knn.k=[5]": r"--evals\.knn sets options of 'knn', which --eval=validation leaves out",
    "--evals.validation.topp=[5]": r"config\.evals\.validation\.topp: did you mean 'top'",
    "--evals.validation=5": r"--evals\.validation sets no option",
    "--step=3": r"no complete checkpoint of step 3; it has 4, 5",
    "--evl=knn": r"Unknown argument '--evl=knn': did you mean '--eval'",
    "--eval=embeddings": r"--eval=embeddings: vitfm\.evals\.embeddings is no evaluator",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    finished: pathlib.Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if "compiled" not in str(path)}
    assert command.main([f"--run={finished}", *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("vitfm: ") and "Traceback" not in captured.err
    assert re.search(REFUSED[words], captured.err), captured.err
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if "compiled" not in str(path)} == before


def test_what_is_no_run_is_refused(tmp_path: pathlib.Path, finished: pathlib.Path, capsys: Callable) -> None:
    assert command.main([f"--run={tmp_path}"]) == 2
    assert "There is no run in" in capsys.readouterr().err
    shutil.copy(finished / "config.json", tmp_path)
    assert command.main([f"--run={tmp_path}"]) == 2
    assert "has saved no checkpoint yet; --random needs none" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "compiled"] == ["config.json"]


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.count("python -m vitfm.evals --run=runs/clip") >= 5
