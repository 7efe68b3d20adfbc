"""A run writes what is promised, does what its recipe says, and ends in words and with its last good state."""

import dataclasses
import itertools
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest

from tests import tiny
from vitfm import config as config_lib
from vitfm import main, train_lib
from vitfm import overrides as config_overrides
from vitfm.checkpoint.manager import Checkpoints
from vitfm.diagnose import Diverged
from vitfm.metrics import runs


def train(workdir: pathlib.Path, *overrides: str) -> dict[str, Any]:
    """A tiny run in this process."""
    arguments, pairs = main._parse(tiny.arguments(workdir, *overrides))
    return train_lib.train(config_overrides.load(arguments.config, pairs), str(workdir))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Holds the runs of this file and the programs that they share."""
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def plain(folder: pathlib.Path) -> pathlib.Path:
    train(folder / "plain", "--config.log_every=1")
    return folder / "plain"


def test_it_writes_everything_promised(plain: pathlib.Path) -> None:
    config = json.loads((plain / "config.json").read_text())
    assert config["objective"]["name"] == "clip"
    assert config["log_every"] == 1
    assert [*plain.glob("events.out.tfevents.*")]
    names = {path.name for path in (plain / "pictures").iterdir()}
    assert names == {
        f"validation__{name}_{step:08}.png"
        for name in ("text_to_image", "image_to_text", "similarity")
        for step in (4, 8, 10)
    }
    page = (plain / "report.html").read_text()
    assert "validation" in page
    assert page.count('<img src="data:image/png') == 3
    assert Checkpoints(plain / "checkpoints").steps() == [8, 10]


def test_rows_are_valid_and_hold_each_step_once(plain: pathlib.Path) -> None:
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (plain / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 10]
    assert all(row["examples"] == 16 * row["step"] for row in rows)
    assert all(one["seconds"] <= other["seconds"] for one, other in itertools.pairwise(rows))
    evaluations = [row for row in rows if "loss" not in row]
    assert [row["step"] for row in evaluations] == [4, 8, 10]
    assert all(0 <= row["validation/retrieval/image_to_text_recall1"] <= 1 for row in evaluations)
    rate = [row["learning_rate"] for row in rows if "loss" in row]
    assert rate[0] == pytest.approx(5e-4)  # The first of two steps of warm-up: a row tells of its own step.
    assert rate[1] == pytest.approx(1e-3)
    assert all(row["images_per_second"] > 0 and 0 <= row["data/wait"] <= 1 for row in rows if "loss" in row)
    assert all(row["data/replaced"] == 0 for row in rows if "loss" in row)


def test_the_result_holds_final_metrics_at_its_top(plain: pathlib.Path) -> None:
    result = json.loads((plain / "result.json").read_text())
    rows = [json.loads(line) for line in (plain / "metrics.jsonl").open()]
    for name, value in {**rows[-2], **rows[-1]}.items():
        if name not in tiny.TIMED:
            assert result[name] == value
    assert result["step"] == tiny.TOTAL
    assert result["examples"] == 160
    assert result["seed"] == 0
    assert result["device"] == f"8 x {jax.devices()[0].device_kind}"
    assert result["versions"]["jax"] == jax.__version__
    assert {"setup", "compile", "data", "train", "eval", "checkpoint"} <= result["phases"].keys()
    assert sum(result["phases"].values()) == pytest.approx(result["seconds"], rel=0.2)
    assert result["images_per_second"] > 0
    assert result["peak_memory_bytes"] > 1e7
    final = runs.load(plain).final
    assert final["loss"] == result["loss"]
    assert not {"step", "examples", "seconds", "seed", "peak_memory_bytes"} & final.keys()


def test_rows_of_several_steps_hold_their_means(folder: pathlib.Path, plain: pathlib.Path) -> None:
    train(folder / "means", "--config.log_every=3")
    one = {row["step"]: row["loss"] for row in tiny.rows(plain) if "loss" in row}
    means = {row["step"]: row["loss"] for row in tiny.rows(folder / "means") if "loss" in row}
    assert means.keys() == {3, 6, 9, 10}
    assert means[6] == pytest.approx(np.mean([one[4], one[5], one[6]]), abs=1e-12)
    assert means[10] == one[10]


def test_a_second_run_in_the_same_process_is_the_same_run(folder: pathlib.Path, plain: pathlib.Path) -> None:
    tiny.assert_equal_bits(tiny.state(folder / "means"), tiny.state(plain))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ema_and_accumulation(folder: pathlib.Path, accumulate: int) -> None:
    workdir = folder / f"ema_{accumulate}"
    short = ["--config.total=3", "--config.ema_decay=0.5", "--config.data.threads=1", "--config.checkpoint.every=1"]
    result = train(workdir, *short, "--config.checkpoint.keep=3", f"--config.accumulate={accumulate}")
    assert {name for name in result if "recall1" in name and "recall10" not in name} == {
        f"{prefix}validation/retrieval/{way}_recall1"
        for prefix in ("", "ema/")
        for way in ("image_to_text", "text_to_image")
    }
    names = {path.name for path in (workdir / "pictures").iterdir()}
    assert {"validation__similarity_00000003.png", "ema__validation__similarity_00000003.png"} <= names
    states = [tiny.state(workdir, step) for step in (1, 2, 3)]
    for name in [name for name in states[0] if name.startswith("ema.")]:
        params = [state[name.replace("ema.", "params.", 1)] for state in states]
        expected = 0.5 * states[0][name] + 0.5 * params[1]
        np.testing.assert_allclose(states[1][name], expected, rtol=1e-5, atol=1e-7)
        if states[1][name].size > 1:
            assert (states[2][name] != states[2][name.replace("ema.", "params.", 1)]).any(), name


def test_accumulated_training_is_close_to_plain(folder: pathlib.Path) -> None:
    one, other = (tiny.rows(folder / f"ema_{accumulate}")[0] for accumulate in (1, 2))
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-3)


def test_keep_rules(folder: pathlib.Path) -> None:
    options = ["every=1", "keep=2", "keep_every=3"]
    train(folder / "keep", "--config.evals={}", *(f"--config.checkpoint.{option}" for option in options))
    assert Checkpoints(folder / "keep/checkpoints").steps() == [3, 6, 9, 10]


def test_a_profile_is_written_for_its_window(folder: pathlib.Path) -> None:
    train(folder / "profile", "--config.evals={}", "--config.total=4", "--config.profile={'start': 2, 'steps': 3}")
    assert [*(folder / "profile/profile").rglob("*.xplane.pb")]


def exploding(workdir: pathlib.Path, at: int | None, *overrides: str) -> None:
    name = "--config.objective.name=tests.exploding"
    train(workdir, "--config.log_every=1", "--config.evals={}", name, f"--config.objective.at={at}", *overrides)


@pytest.fixture(scope="module")
def sound(folder: pathlib.Path) -> pathlib.Path:
    """The run without its NaN, with every state."""
    exploding(folder / "sound", None, "--config.checkpoint={'every': 1, 'keep': 10}")
    return folder / "sound"


@pytest.mark.parametrize(("good", "log_every"), [(0, 1), (6, 1), (9, 7)])
def test_what_is_not_finite_ends_the_run_at_its_last_good_state(
    folder: pathlib.Path, sound: pathlib.Path, good: int, log_every: int
) -> None:
    workdir = folder / f"nan_{good}_{log_every}"
    with pytest.raises(Diverged) as stop:
        exploding(workdir, good, f"--config.log_every={log_every}")
    assert stop.value.exit_code == 1
    assert f"Step {good + 1} is not finite; the first bad tensor is gradients/text/projection/kernel." in str(
        stop.value
    )
    assert f"The state after step {good}" in str(stop.value)
    assert Checkpoints(workdir / "checkpoints").latest() == good
    if good:
        tiny.assert_equal_bits(tiny.state(workdir, good), tiny.state(sound, good))
    assert bool(tiny.state(workdir, good)["healthy"])
    rows = tiny.rows(workdir)
    assert [row["step"] for row in rows] == [step for step in range(1, good + 1) if step % log_every == 0]
    if log_every == 1:
        assert rows == tiny.rows(sound)[:good]
    assert not (workdir / "result.json").exists()
    with pytest.raises(Diverged, match=f"Step {good + 1} is not finite"):  # Run again it says the same.
        exploding(workdir, good, f"--config.log_every={log_every}")
    assert tiny.rows(workdir) == rows


def test_a_learning_rate_beyond_all_bounds_ends_the_run(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny.arguments(folder / "fast", "--config.optim.learning_rate=1e30", "--config.evals={}")
    assert main.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("vitfm: Step ")
    assert "Traceback" not in error
    step = Checkpoints(folder / "fast/checkpoints").latest()
    assert step is not None
    state = tiny.state(folder / "fast", step)
    assert all(np.isfinite(leaf).all() for leaf in state.values() if np.issubdtype(leaf.dtype, np.floating))


def test_an_evaluator_that_fails_costs_no_training(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Exception):
        pass

    def fail(params: Any) -> Any:
        raise Broken

    built = train_lib._evaluators

    with monkeypatch.context() as patch:
        patch.setattr(
            train_lib, "_evaluators", lambda *given: {name: (when, fail) for name, (when, _) in built(*given).items()}
        )
        with pytest.raises(Broken):
            train(folder / "broken", "--config.evals.validation.every=0")
    assert Checkpoints(folder / "broken/checkpoints").latest() == tiny.TOTAL
    result = train(folder / "broken", "--config.evals.validation.every=0")
    assert result["validation/retrieval/image_to_text_recall1"] >= 0
    assert result["loss"] > 0
    assert result["phases"].get("train", 0) == 0


def test_evaluators_may_give_any_kind_of_number(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = train_lib._evaluators

    def give(params: Any) -> Any:
        yield "test/any/float32", np.float32(0.5)
        yield "test/any/int", 3
        yield "test/any/device", jax.numpy.float32(0.25)
        yield "test/picture", np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(
        train_lib, "_evaluators", lambda *given: {name: (when, give) for name, (when, _) in built(*given).items()}
    )
    result = train(folder / "kinds", "--config.total=1")
    assert [result[f"test/any/{kind}"] for kind in ("float32", "int", "device")] == [0.5, 3.0, 0.25]
    assert (folder / "kinds/pictures/test__picture_00000001.png").is_file()


def test_sessions_start_from_nothing() -> None:
    """Defaults are not shared between runs."""
    fields = {field.name: field for field in dataclasses.fields(train_lib.Session)}
    assert fields["latest"].default_factory() == {}
    assert fields["window"].default_factory().stored() == {"sums": {}, "count": 0}


def test_a_run_starts_from_another(plain: pathlib.Path, folder: pathlib.Path) -> None:
    config = tiny.get_config().to_dict()
    config |= {"total": 4, "evals": {}, "ema_decay": 0.5, "checkpoint": {"every": 2}}
    config["optim"]["learning_rate"] = 0.0  # What it starts from is what it ends with.
    take = {"image": "image", "logit_scale": "logit_scale"}
    config["init"] = {"run": str(plain), "take": take, "fresh": ["^text"]}
    workdir = folder / "from_plain"
    train_lib.train(config, str(workdir))
    old, new = tiny.state(plain), tiny.state(workdir, 4)
    for part in ("params", "ema"):
        taken = [name for name in new if name.startswith((f"{part}.image", f"{part}.logit_scale"))]
        assert len(taken) > 10
        for name in taken:
            np.testing.assert_array_equal(new[name], old[name.replace("ema.", "params.", 1)], err_msg=name)
    assert not np.array_equal(new["params.text.tower.embedding"], old["params.text.tower.embedding"])

    def lineage(step: int) -> dict[str, Any]:
        return Checkpoints(workdir / "checkpoints").meta(step)["lineage"]

    assert (lineage(4)["run"], lineage(4)["step"]) == (str(plain), 10)
    assert "text/tower/embedding" in lineage(4)["fresh"]
    shutil.rmtree(workdir / "checkpoints/4")
    shutil.move(plain, plain.with_name("moved"))  # A resumed run no longer needs what it came from.
    try:
        train_lib.train(config, str(workdir))
    finally:
        shutil.move(plain.with_name("moved"), plain)
    assert lineage(4) == lineage(2)
    tiny.assert_equal_bits(tiny.state(workdir, 4), new)


def test_a_teacher_starts_from_the_same_run_as_its_student(plain: pathlib.Path, folder: pathlib.Path) -> None:
    config = config_lib.load_file("configs/dino.py:tiny").to_dict()
    tower = {**tiny.get_config().to_dict()["objective"]["image"], "name": "vit"}
    config["objective"] |= {"model": tower, "prototypes": 8, "hidden_dim": 16, "bottleneck_dim": 8, "momentum": 1.0}
    config["init"] = {"run": str(plain), "take": {"encoder": "image/tower"}, "fresh": ["^head"]}
    train_lib.train({**config, "total": 2, "batch_size": 16, "evals": {}, "checkpoint": {}}, str(folder / "dino"))
    old, new = tiny.state(plain), tiny.state(folder / "dino", 2)
    encoder = [name for name in new if name.startswith("extra.teacher.encoder") and "position" not in name]
    assert len(encoder) > 10
    for name in encoder:
        start = name.replace("extra.teacher.encoder", "params.image.tower")
        np.testing.assert_array_equal(new[name], old[start], err_msg=name)
    moved = "params.encoder.transformer.norm.scale"
    assert not np.array_equal(new[moved], new[moved.replace("params", "extra.teacher")])  # The student has learned.
