"""Every benchmark runs, prints its table and writes its numbers; what the numbers are is not tested."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tarfile
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import (
    backbones,
    clip_vs_open_clip,
    data,
    equal_time,
    hands,
    mae_saving,
    photographs,
    pipelines,
    representations,
    step,
    supervised_vs_timm,
    tables,
    workers,
)
from benchmarks.learners import vitfm
from benchmarks.sizes import SIZES, Size
from tests import tiers
from vitfm import program, tree
from vitfm import recipe as recipes
from vitfm.data import augment

RECIPE = """
from vitfm import config as config_lib

def get_config(arg=None):
    config = config_lib.load_file("configs/clip.py:tiny")
    config.batch_size = 16
    config.data.image_size = 32
    config.objective.update(dict(embed_dim=32))
    config.objective.image.update(dict(hidden_dim=32, depth=1))
    config.objective.text.update(dict(hidden_dim=32, depth=1))
    config.evals = dict(test_style=config.evals.test_style)
    config.evals.test_style.update(
        dict(source="tfds:emoji:test_style[:20]", tasks=dict(zeroshot=dict(label="name", classes="tfds:emoji:test_style[:20]")))
    )
    return config
"""  # noqa: E501
RUN = {"seed", "steps", "batch_size", "seconds", "waiting", "preparation", "peak_memory_bytes", "versions", "metrics"}


def peers() -> Any:
    """What they share; it imports torch."""
    return pytest.importorskip("benchmarks.learners.peers")


def as_user(module: str, *arguments: str) -> str:
    """The output of a command, run as a user does."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=workers.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(module: str, out: pathlib.Path, *arguments: str) -> tuple[str, dict]:
    """The output and the JSON of a benchmark."""
    return as_user(f"benchmarks.{module}", f"--out={out}", *arguments), json.loads(out.read_text())


def theirs_alone(peer: str, size: Size) -> int:
    """How many parameters torch counts besides ours."""
    # A class token's own position, but SigLIP has no class token. transformers counts ViTMAE's fixed positions, too,
    # and torch the gains of weight-normed prototypes, which stay 1, and gains and biases of a head's last batch norm
    # that the authors do without.
    patches = (size.image_size // size.patch_size) ** 2
    besides = {
        "mae": (patches + 1) * (size.width + size.decoder_width) - size.width,
        "dino": size.prototypes,
        "dinov2": 2 * size.prototypes,
        "simclr": 128,
        "moco_v3": 4 * 256,
    }
    return besides.get(peer, 0) + (0 if peer == "siglip" else size.width)


@pytest.mark.parametrize("name", tiers.slow_unless("tiny".__eq__, ["tiny", "S16"]))
@pytest.mark.parametrize("peer", step.PEERS)
def test_architectures_are_equal(peer: str, name: str):
    theirs = pytest.importorskip(f"benchmarks.learners.{peer}")
    size = SIZES[name]
    ours = program.build(recipes.parse(vitfm.config(size, size.batch_size, step.PEERS[peer].objective)))
    with peers().torch.device("meta"):
        learner = theirs.make(size, vitfm.facts(ours.data.facts))
    assert peers().count(learner.model) - tree.count(ours.shapes.params) == theirs_alone(peer, size)


@pytest.mark.parametrize("peer", tiers.slow_unless("timm".__eq__, step.PEERS))
def test_step_compares_whole_steps(peer: str, tmp_path):
    text, result = run("step", tmp_path / "step.json", f"--peer={peer}", "--size=nano", "--steps=2", "--rounds=2")
    assert all(name in text for name in (*step.COLUMNS, peer, "vitfm", "ratio"))
    assert result["settings"]["batch"] == SIZES["nano"].batch_size
    assert set(result["summary"][peer]) == {peer, "vitfm", "ratio"}
    assert all(len(side["milliseconds"]) == 4 for side in result["sides"][peer].values())
    assert all(value > 0 for row in result["summary"][peer].values() for value in row.values())
    parameters = {name: side["parameters"] for name, side in result["sides"][peer].items()}
    assert parameters[peer] - parameters["vitfm"] == theirs_alone(peer, SIZES["nano"])


@pytest.mark.slow
def test_clip_trains_and_evaluates_both_sides(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE)
    text, result = run(
        "clip_vs_open_clip",
        tmp_path / "clip.json",
        f"--config={tmp_path}/recipe.py",
        "--peer_size=nano",
        "--peer_batch=8",
        "--seconds=0.05",
        "--calibration_steps=2",
        "--attempts=1",
        "--seeds=1",
    )
    assert all(name in text for name in (*equal_time.COLUMNS, "open_clip", "vitfm", "ratio"))
    assert set(result["ratio"]) == set(result["summary"]["vitfm"]) == set(result["summary"]["open_clip"])
    for side in ("open_clip", "vitfm"):
        assert [one["seed"] for one in result["runs"][side]] == [1]
        assert all(one.keys() >= RUN for one in result["runs"][side])
        assert all(0 <= share <= 1 for key in ("top1", "top5") for share in result["summary"][side][key])
    assert result["runs"]["open_clip"][0]["metrics"].keys() == result["runs"]["vitfm"][0]["metrics"].keys()


@pytest.mark.slow
def test_masking_is_measured(tmp_path):
    options = ("--config=configs/mae.py:tiny", "--batch=8", "--steps=1", "--rounds=2")
    text, result = run("mae_saving", tmp_path / "mae.json", *options)
    assert all(name in text for name in (*mae_saving.COLUMNS, "masked", "all visible", "ratio"))
    assert [result["summary"][name]["visible"] for name in ("masked", "all visible")] == [16, 63]
    assert all(len(times) == 2 for times in result["milliseconds"].values())
    assert result["summary"]["ratio"]["temporaries_gib"] < 1


@pytest.mark.slow
def test_representations_are_compared(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# What was learned\n{}\nold\n{}\nnotes\n".format(*representations._MARKS))
    options = ("--recipes=clip:tiny,mae:tiny", "--seeds=3", f"--workdir={tmp_path}", f"--markdown={page}")
    text, result = run("representations", tmp_path / "table.json", *options)
    rows = {"raw pixels", "clip:tiny, untrained", "clip:tiny", "mae:tiny, untrained", "mae:tiny"}
    assert result.keys() == rows and all(name in text for name in ("raw pixels", "clip:tiny", "mae:tiny"))
    assert all(0.03 < row["3"][title] < 1 for row in result.values() for title in representations.PROBED)
    assert result["clip:tiny"]["3"].keys() == representations.COLUMNS.keys()  # MAE has no zero-shot.
    assert representations.COLUMNS.keys() - result["mae:tiny"]["3"].keys() == representations.ZERO_SHOT.keys()
    assert json.loads((tmp_path / "mae_tiny_3" / "config.json").read_text())["seed"] == 3
    written = page.read_text()
    assert "old" not in written and written.startswith("# What was learned\n") and written.endswith("\nnotes\n")
    assert written.count("\n| ") == 2 + 3


def test_representations_that_are_known_are_not_measured_again(tmp_path):
    columns = dict.fromkeys(representations.PROBED, 0.25)
    mae = {"0": {**columns, "minutes": 120.0}, "1": {**columns, "style kNN": 0.35, "minutes": 180.0}}
    numbers = {"raw pixels": {"0": columns}, "mae, untrained": {"0": columns}, "mae": mae}
    (tmp_path / "numbers.json").write_text(json.dumps(numbers))
    assert representations.main(["--recipes=mae", "--seeds=0,1", f"--out={tmp_path}/numbers.json"]) == numbers
    shown = dict(zip(representations.TABLE, representations.cells(numbers, "mae"), strict=True))
    assert [shown[title] for title in ("style linear", "style kNN")] == ["25.0 ± 0.0", "30.0 ± 5.0"]
    assert [shown[title] for title in ("style kNN, untrained", "minutes", "seeds")] == ["25.0", "3.0", "2"]
    assert not shown["style zero-shot"]


@pytest.mark.slow
def test_hands_are_told_apart(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("{}\n{}\n".format(*hands._MARKS))
    options = ("--recipes=mae:tiny", "--seed=3", f"--workdir={tmp_path}", f"--markdown={page}")
    text, result = run("hands", tmp_path / "hands.json", *options)
    assert result.keys() == {"raw pixels", "mae:tiny", "mae:tiny, untrained"} and "706 by known hands" in text
    assert all(len(row) == 896 and 0.03 < row.count("1") / 896 < 1 for row in result.values())
    test = f"--evals.linear_probe.test={hands.TEST}#where=style:{hands.NEW_HAND}"
    options = ("--eval=linear_probe", test, "--evals.linear_probe.prefix=new_hand")
    as_user("vitfm.evals", f"--run={tmp_path}/mae_tiny_3", *options)
    probed = json.loads((tmp_path / "mae_tiny_3" / "result.json").read_text())
    new = [digit == "1" for digit, one in zip(result["mae:tiny"], hands.drawings().new, strict=True) if one]
    assert np.mean(new) == pytest.approx(probed["new_hand/linear_probe/top1"])
    assert page.read_text().count("\n| ") == 2 + 2


def test_hands_that_are_known_are_not_measured_again(tmp_path):
    split = hands.drawings()
    right = lambda known, new: "".join(str(new if one else known) for one in split.new)
    found = {"raw pixels": right(1, 0), "mae": right(0, 1), "mae, untrained": right(0, 0)}
    (tmp_path / "hands.json").write_text(json.dumps(found))
    assert hands.main(["--recipes=mae", f"--out={tmp_path}/hands.json"]) == found
    certain = "+100.0 [+100.0, +100.0]"
    assert hands.cells(found, "mae", split)[:-1] == ["0.0", "0.0", "100.0", "0.0", certain, certain, "21.2"]
    assert hands.cells(found, "raw pixels", split) == ["100.0", "", "0.0", "", "", "", "78.8", ""]


def test_the_interval_is_over_things_and_not_over_drawings():
    by_thing = np.random.default_rng(0).normal(size=200)
    widths = []
    for copies in (1, 4):  # Of one thing, drawn alike: they tell no more than one does.
        split = hands.Drawings(np.arange(200).repeat(copies), np.zeros(200 * copies, bool))
        mean, low, high = split.interval(by_thing.repeat(copies), ~split.new)
        assert low < mean < high and mean == pytest.approx(by_thing.mean())
        widths.append(high - low)
    np.testing.assert_allclose(widths, 2 * 1.96 * by_thing.std() / 200**0.5, rtol=0.1)


def test_a_table_is_written_between_two_lines_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n[\nold\n]\nafter\n")
    for cell in ("1.0", "2.0"):
        tables.rewrite(page, ("[", "]"), ["", "a"], {"row": [cell]})
        assert page.read_text() == f"before\n[\n\n|  | a |\n| --- | --- |\n| row | {cell} |\n\n]\nafter\n"
    with pytest.raises(ValueError, match="has no lines"):
        tables.rewrite(page, ("(", ")"), ["a"], {})


@pytest.mark.slow
def test_backbones_are_compared(tmp_path):
    options = ("--models=nano", "--size=32", "--batch=2", "--steps=1", "--rounds=2")
    text, result = run("backbones", tmp_path / "backbones.json", *options)
    assert all(name in text for name in (*backbones.COLUMNS, "nano inference", "nano train"))
    assert all(value > 0 for row in result["summary"].values() for value in row.values())
    for sides in result["sides"].values():
        assert sides["vitfm"]["parameters"] == sides["timm"]["parameters"]
        assert all(len(side["milliseconds"]) == 2 for side in sides.values())


def test_pipelines_are_compared(tmp_path):
    options = (f"--folder={tmp_path}", "--files=12", "--epochs=2", "--batch=4", "--workers=1")
    text, result = run("data", tmp_path / "data.json", *options, "--sides=vitfm,vitfm-ten")
    assert all(name in text for name in (*data.COLUMNS, "vitfm 1", "vitfm-ten 1"))
    sides = result["sides"]
    assert sides["vitfm 1"]["shapes"] == {"image": [4, 224, 224, 3, "uint8"]}
    expected = {"global": [4, 2, 224, 224, 3, "uint8"], "local": [4, 8, 96, 96, 3, "uint8"]}
    assert sides["vitfm-ten 1"]["shapes"] == expected
    for side in sides.values():
        assert [turn["images"] for turn in side["turns"]] == [12, 12]
        assert all(turn["seconds"] > 0 and turn["memory_bytes"] > 2**20 for turn in side["turns"])
    assert result["summary"]["vitfm 1"]["ratio"] is None  # Nobody stands beside it.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision", "torchvision-v2", "webdataset", "torchvision-ten"])
def test_other_pipelines_make_the_same_shapes(name: str, tmp_path):
    pytest.importorskip("webdataset" if name == "webdataset" else "torch")
    options = (f"--folder={tmp_path}", "--files=16", "--epochs=1", "--batch=4", "--workers=1", f"--sides={name}")
    _, result = run("data", tmp_path / "data.json", *options)
    (side,) = result["sides"].values()
    ten = {"global": [4, 2, 3, 224, 224, "torch.uint8"], "local": [4, 8, 3, 96, 96, "torch.uint8"]}
    assert side["shapes"] == (ten if name.endswith("ten") else {"image": [4, 3, 224, 224, "torch.uint8"]})


def test_photographs_are_the_same_everywhere_and_as_large_as_photographs(tmp_path):
    files = sorted(photographs.make(tmp_path, 12).glob("*/*.jpg"))
    assert [file.read_bytes() for file in files] == [photographs.encoded(int(file.stem)) for file in files]
    assert 60_000 < np.mean([file.stat().st_size for file in files]) < 140_000
    assert {photographs.picture(number).shape for number in range(12)} <= {(*size, 3) for size in photographs.SIZES}
    (tar,) = photographs.shards(files[0].parents[1])
    with tarfile.open(tar) as members:
        assert len(members.getnames()) == 12


def test_processor_time_and_memory_are_of_all_processes():
    before, started = pipelines.processor_seconds(), pipelines.memory()
    burn = "s = bytearray(2**26)\nfor i in range(3 * 10**6): pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert pipelines.processor_seconds() > before
        assert pipelines.memory() - started > 2**25
        child.stdin.close()


@pytest.mark.parametrize(
    "module", [step, backbones, clip_vs_open_clip, supervised_vs_timm, mae_saving, representations, hands]
)
def test_help_teaches(module, capsys):
    with pytest.raises(SystemExit):
        module.main(["--help"])
    assert f"python -m {module.__name__}" in capsys.readouterr().out


def test_the_recipe_given_to_vitfm_is_one():
    for size in SIZES.values():
        for peer in step.PEERS.values():
            recipes.parse(vitfm.config(size, size.batch_size, peer.objective))


def test_the_peer_sees_the_same_pixels():
    rgba = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 4), np.uint8)
    ours = augment.make()[1]({"image": jax.numpy.asarray(rgba)})["image"]
    theirs = peers().preprocess(rgba).permute(0, 2, 3, 1)
    np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_the_peer_learns():
    open_clip = pytest.importorskip("benchmarks.learners.open_clip")
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 4), np.uint8),
        "text": np.concatenate([rng.integers(3, 50, (8, 7)), np.full((8, 1), 2)], axis=1),
    }
    jitter = {"background": "random", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "grayscale": 0.5}
    learner = open_clip.Learner(
        SIZES["nano"], vocab_size=50, text_length=8, eos_id=2, total=30, learning_rate=2e-3, augment=jitter
    )
    losses = [learner.step(batch) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    image, text = learner.embed_image(batch["image"]), learner.embed_text(batch["text"], batch["text"] > 0)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([image, text]), axis=1), 1, atol=1e-5)


def test_a_worker_that_dies_says_so():
    with pytest.raises(RuntimeError, match=r"benchmarks\.nowhere ended with exit code 1"):
        workers.Worker("benchmarks.nowhere", {})


def test_spread():
    assert tables.spread([0.25], "{:.1f}", 100) == "25.0"
    assert tables.spread([1.0, 2.0]) == "1.5 ± 0.5"


def test_a_side_that_missed_the_time_is_run_again():
    calls = []

    def run(steps: int, seed: int, evaluate: bool) -> dict:
        calls.append((steps, evaluate))
        return {"steps": steps, "seconds": steps * (0.1 if len(calls) == 1 else 0.2)}

    arguments = equal_time.parse(clip_vs_open_clip.MATCH, ["--seconds=10", "--calibration_steps=5"])
    runs = equal_time.measure({"vitfm": run}, arguments)["vitfm"]
    assert calls == [(5, False), (100, True), (50, True)]
    assert runs == [{"seed": 0, "steps": 50, "seconds": 10.0}]
