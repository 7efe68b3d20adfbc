"""A recipe runs on a folder that nobody prepared, with no other option than its path."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from tests import tiny
from vitfm import main, overrides, own_data
from vitfm.config import ConfigError
from vitfm.data import files, pipeline, sources
from vitfm.evals import base

SIZES = ((20, 20), (30, 45), (90, 260), (8000, 10))  # Rows, columns.


def folder(root: pathlib.Path, count: int = 60, *, captions: bool = True, labels: bool = True) -> str:
    """`folder:` of so many JPEGs of several sizes, in two classes, each with a text beside it."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = root / ("apples", "pears")[number % 2] if labels else root
        place.mkdir(parents=True, exist_ok=True)
        size = SIZES[number] if number < len(SIZES) else (24, 24)
        cv2.imwrite(str(place / f"{number:03}.jpg"), rng.integers(0, 255, (*size, 3), np.uint8))
        if captions:
            (place / f"{number:03}.txt").write_text(f"number {number} of the fruit")
    return f"folder:{root}"


def fitted(recipe: str, *pairs: tuple[str, str]) -> dict:
    return overrides.load(str(tiny.ROOT / f"configs/{recipe}.py"), pairs).to_dict()


def test_a_source_of_the_same_collection_changes_nothing():
    own = fitted("mae")
    for source in ("tfds:emoji:validation", "tfds:emoji:train[:50%]", "tfds:emoji:train#:50%"):
        assert fitted("mae", ("data.source", source)) == {**own, "data": {**own["data"], "source": source}}


def test_a_tenth_is_held_out_and_evaluated(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    spec = folder(tmp_path / "x")
    config = fitted("clip", ("data.source", spec))
    assert config["data"]["source"] == f"{spec}#:90%"
    assert config["data"]["captions"] == {"name": "caption", "tags": None, "templates": ("{}",)}
    assert config["data"]["columns"] == {"concept": "caption"}
    assert 4 <= config["data"]["tokenizer"]["length"] <= 77
    assert set(config["evals"]) == {"zeroshot", "retrieval"}
    assert config["evals"]["zeroshot"]["every"] == "25%"
    assert config["evals"]["retrieval"]["pictures"] == 12
    assert {evaluator["source"] for evaluator in config["evals"].values()} == {f"{spec}#90%:"}
    assert "a tenth of the images is held out" in capsys.readouterr().err


def test_fewer_images_than_the_recipes_are_seen_as_many_steps(tmp_path: pathlib.Path):
    config = fitted("mae", ("data.source", folder(tmp_path / "x")))
    assert config["total"] == "655 steps"  # 14 epochs of 5,980 in batches of 128.


def test_unlabelled_images_keep_the_pictures(tmp_path: pathlib.Path):
    spec = folder(tmp_path / "x", labels=False, captions=False)
    assert set(fitted("mae", ("data.source", spec))["evals"]) == {"attention", "reconstruction"}


def test_other_than_8_bit_rgb_has_no_opacity(tmp_path: pathlib.Path):
    spec = folder(tmp_path / "x")
    assert fitted("mae", ("data.source", spec))["data"]["alpha"]
    for pair in (("data.channels", "1"), ("data.input.dtype", "uint16")):
        assert not fitted("mae", ("data.source", spec), pair)["data"]["alpha"]


def test_too_few_images_are_not_split(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    spec = folder(tmp_path / "x", own_data.HELDOUT - 1)
    config = fitted("mae", ("data.source", spec))
    assert config["data"]["source"] == spec
    assert set(config["evals"]) == {"attention", "reconstruction"}
    assert config["evals"]["reconstruction"]["prefix"] == "train"
    assert "nothing is held out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "train", "test"),
    [
        ("#keep={}/keep.txt", "#:90%", "#90%:"),
        ("#:90%", "#:81%", "#81%:"),
        ("#50%:", "#:95%", "#95%:"),
        ("#:50%#keep={}/keep.txt", "#:45%", "#45%:"),
        ("#:80%&by=label", "#:72%&by=label", "#72%:&by=label"),
    ],
)
def test_of_a_part_a_tenth_is_held_out(tmp_path: pathlib.Path, part: str, train: str, test: str):
    spec = folder(tmp_path / "x", 200, captions=False)
    for number in range(200):
        place = tmp_path / "x" / f"kind {number % 50}"  # Groups enough to be on both sides.
        place.mkdir(exist_ok=True)
        next((tmp_path / "x").glob(f"[ap]*/{number:03}.jpg")).rename(place / f"{number:03}.jpg")
    for empty in ("apples", "pears"):
        (tmp_path / "x" / empty).rmdir()
    (tmp_path / "keep.txt").write_text("\n".join(sources.make(spec).keys()))
    spec += part.format(tmp_path)
    config = fitted("mae", ("data.source", spec))
    assert config["data"]["source"] == spec + train
    assert config["evals"]["reconstruction"]["source"] == spec + test
    assert config["evals"]["reconstruction"]["prefix"] == "heldout"
    both = [set(sources.make(own).keys()) for own in (spec + train, spec + test)]
    assert not both[0] & both[1] and both[0] | both[1] == set(sources.make(spec).keys())


def test_a_split_that_is_there_is_evaluated(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    spec, beside = folder(tmp_path / "x/train"), folder(tmp_path / "x/val", 4)
    config = fitted("mae", ("data.source", spec))
    assert config["data"]["source"] == config["evals"]["knn"]["train"] == spec
    assert config["evals"]["knn"]["test"] == config["evals"]["reconstruction"]["source"] == beside
    assert f"{beside} is evaluated by" in capsys.readouterr().err


def labelled(root: pathlib.Path, labels: Sequence[str]) -> str:
    """`folder:` of an image for each of these, whose labels stand in metadata.csv."""
    spec = folder(root, len(labels), captions=False, labels=False)
    rows = (f"{number:03}.jpg,{label}" for number, label in enumerate(labels))
    (root / "metadata.csv").write_text("\n".join(["file_name,label", *rows]) + "\n")
    return spec


def opened(config: dict, names: Sequence[str]) -> None:
    """Makes evaluators of a config as a run does, with predict functions that are never called."""
    data = pipeline.make(**config["data"])
    predict = dict.fromkeys(("features", "logits", "attention", "reconstruct", "embed_image", "embed_text"))
    context = base.Context(
        predict, sources.make, None, data.tokenizer, None, classes=data.facts.classes, to_pixels=data.to_pixels
    )
    assert set(config["evals"]) == set(names)
    for name, spec in config["evals"].items():
        base.make(name, {key: value for key, value in spec.items() if key != "every"}, context)


PROBES = ("knn", "linear_probe", "fewshot")


def test_one_class_all_over(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    folder(tmp_path / "x/images", labels=False, captions=False)
    config = fitted("mae", ("data.source", f"folder:{tmp_path}/x"))
    opened(config, ["attention", "reconstruction"])
    assert "fewshot, knn, linear_probe can't be asked: 'label' is 'images' all over" in capsys.readouterr().err


def test_classes_that_are_held_out_whole(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    spec = labelled(tmp_path, [f"kind {number // 2}" for number in range(100)])
    config = fitted("supervised", ("data.source", spec))
    assert len(config["data"]["label"]["classes"]) == 50
    opened(config, ["classification"])
    assert "fewshot, knn, linear_probe can't be asked: no training image has 'label' = 'kind" in capsys.readouterr().err


def test_numbers_that_are_held_out_whole(tmp_path: pathlib.Path):
    spec = labelled(tmp_path, [str(number // 2) for number in range(100)])
    config = fitted("supervised", ("data.source", spec))
    assert config["data"]["label"]["classes"] == tuple(map(str, range(50)))
    opened(config, ["classification"])


def test_images_without_a_label(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    spec = labelled(tmp_path, ["" if number % 5 == 0 else "ab"[number % 2] for number in range(100)])
    config = fitted("supervised", ("data.source", spec))
    opened(config, [])
    said = capsys.readouterr().err
    assert "images have no 'label'" in said and "no evaluator of the recipe can ask this data anything" in said


def test_a_class_of_each_image(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    for number in range(60):
        folder(tmp_path / f"{number:02}", 1, labels=False)
    spec = f"folder:{tmp_path}"
    opened(fitted("supervised", ("data.source", spec)), [])
    assert "fewshot, knn, linear_probe, classification can't be asked: no training image" in capsys.readouterr().err
    opened(fitted("clip", ("data.source", spec)), ["zeroshot", "retrieval"])


def test_labels_that_evaluators_take(tmp_path: pathlib.Path):
    opened(fitted("supervised", ("data.source", folder(tmp_path / "x"))), ["classification", *PROBES])
    spec = labelled(tmp_path / "y", [str(number % 3) for number in range(100)])
    opened(fitted("supervised", ("data.source", spec)), ["classification", *PROBES])
    spec = labelled(tmp_path / "z", [str(number / 3) for number in range(100)])
    opened(fitted("mae", ("data.source", spec)), ["attention", "reconstruction"])


def test_what_is_given_stays(tmp_path: pathlib.Path):
    spec = folder(tmp_path / "x")
    given = [("total", "5"), ("evals.knn.every", "50%"), ("data.cache_gb", "0.5"), ("data.label.feature", "key")]
    config = fitted("supervised", ("data.source", spec), *given)
    assert config["total"] == "5"
    assert config["data"]["cache_gb"] == 0.5
    assert config["data"]["label"] == {"feature": "key"}
    assert config["data"]["source"] == spec  # Evaluators stay as the recipe has them, so nothing is held out for them.
    assert config["evals"]["knn"] == {**fitted("supervised")["evals"]["knn"], "every": "50%"}


@pytest.mark.parametrize(("recipe", "words"), [("supervised", "folder a class"), ("clip", "x.txt beside each x.jpg")])
def test_what_is_missing_is_said(tmp_path: pathlib.Path, recipe: str, words: str):
    spec = folder(tmp_path / "x", labels=False, captions=False)
    with pytest.raises(ConfigError, match=words):
        fitted(recipe, ("data.source", spec))


@pytest.mark.parametrize("recipe", ["mae", "clip", "supervised"])
def test_the_first_image_may_be_bad(tmp_path: pathlib.Path, recipe: str):
    spec = folder(tmp_path / "x")
    (tmp_path / "x/apples/-1.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "x/apples/000.txt").write_bytes("caf\xe9".encode("latin-1"))
    evals = fitted(recipe, ("data.source", spec))["evals"]
    assert {"mae": "fewshot", "clip": "zeroshot", "supervised": "classification"}[recipe] in evals


def test_what_is_missing_is_said_where_the_first_image_is_bad(tmp_path: pathlib.Path):
    spec = folder(tmp_path / "x", labels=False, captions=False)
    (tmp_path / "x/-1.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(ConfigError, match="its examples have image, key"):
        fitted("supervised", ("data.source", spec))


@pytest.mark.parametrize("part", ["", "#:99%"])
def test_few_captions_are_read(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, part: str):
    """Those that are measured, in several threads."""
    spec = folder(tmp_path / "x", 300) + part
    read, threads, by = [], set(), files.read
    monkeypatch.setattr(own_data, "_SAMPLE", 130)
    monkeypatch.setattr(files, "read", lambda path: read.append(path) or threads.add(threading.get_ident()) or by(path))
    fitted("clip", ("data.source", spec))
    texts = [path for path in read if path.endswith(".txt")]
    assert 130 <= len(set(texts)) <= len(texts) <= 140 and len(threads) > 1


@pytest.mark.parametrize("recipe", ["mae", "clip", "supervised"])
def test_it_trains_with_the_path_alone(tmp_path: pathlib.Path, recipe: str):
    spec = folder(tmp_path / "x")
    arguments = [f"--config={tiny.ROOT}/configs/{recipe}.py:tiny", f"--config.data.source={spec}"]
    assert main.main([*arguments, f"--workdir={tmp_path}/run", "--config.total=2", "--config.batch_size=8"]) == 0
    assert (tmp_path / "run/report.html").exists()
