"""Any source becomes a data set: its features, classes and splits, or words that say why not."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data import broken
from vitfm.data import formats, inputs, labels, sources
from vitfm.data.sources import base

Prepare = Callable[..., str]
Opened = Callable[..., base.Source]


@pytest.fixture
def table(tmp_path: pathlib.Path) -> pathlib.Path:
    """Twenty scans of five patients, with numbers, some of them missing."""
    rng = np.random.default_rng(0)
    lines = ["file_name,text,class,patient,age,score,note"]
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(broken.encoded(broken.picture(rng), "PNG"))
        age = "" if number == 3 else str(20 + number)
        lines.append(f"{number}.png,scan {number},{'sick' if number % 3 else 'well'},p{number % 5},{age},{number / 4},")
    path = tmp_path / "scans.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def by_key(source: base.Source) -> dict[str, dict[str, Any]]:
    return {base.key(source, index): source[index] for index in range(len(source))}


def test_a_table(prepare: Prepare, opened: Opened, table: pathlib.Path):
    said = prepare(f"csv:{table}")
    before, after = by_key(sources.make(f"csv:{table}")), opened()
    assert "'note' is None in all examples" in said and "age: integer" in said and "class: one of 2 classes" in said
    assert after.roles == {"image": "image", "label": "class", "caption": "text"}
    assert labels.make(open_source=lambda: after).classes == ("sick", "well")
    for key, example in by_key(after).items():
        own = before[key]
        assert example["class"] == ("sick", "well").index(own["class"]) and "note" not in example
        assert all(example[name] == own[name] for name in ("image", "text", "patient", "age", "file_name"))
        assert example["score"] == np.float32(own["score"])
    assert by_key(after)["3.png"]["age"] is None


def test_what_is_said_of_features(prepare: Prepare, opened: Opened, table: pathlib.Path):
    flags = ["score=text", "patient=class", "class=text", "file_name=none", "age=json"]
    prepare(f"csv:{table}", *(f"--feature={flag}" for flag in flags))
    source = opened()
    example = by_key(source)["1.png"]
    assert example["score"] == "0.25" and example["class"] == "sick" and example["age"] == "21"
    assert source.classes("patient") == ("p0", "p1", "p2", "p3", "p4") and example["patient"] == 1
    assert "file_name" not in example and example["key"] == "1.png"


def test_groups_stay_together(prepare: Prepare, opened: Opened, table: pathlib.Path):
    prepare(f"csv:{table}", "--splits", "train=#:60%&by=patient", "test=#60%:&by=patient")
    train, test = ({*opened(split).column("patient")} for split in ("train", "test"))
    assert train | test == {"p0", "p1", "p2", "p3", "p4"} and train and test and not train & test
    assert len(opened("train")) + len(opened("test")) == len(opened("train+test")) == 20
    assert "is no part" in prepare(f"csv:{table}", "--splits", "train=:60%", folder="other", refused=True)


def test_a_split_joins_others(prepare: Prepare, opened: Opened, tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    for name in ("train/cat", "train/dog", "val/dog", "val/none", "odd/cow", "odd/dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").write_bytes(broken.encoded(broken.picture(rng), "JPEG"))
        (tmp_path / name / "1.txt").write_text("a text")
    (tmp_path / "val" / "none" / "1.jpg").rename(tmp_path / "val" / "dog" / "2.jpg")
    prepare(f"folder:{tmp_path}/train", "--shards=2")
    prepare(f"folder:{tmp_path}/val", "--split=validation")
    for split, expected in (("train", ["cat", "dog"]), ("validation", ["dog", "dog"])):
        names = [opened(split).classes("label")[own["label"]] for own in opened(split)]
        assert sorted(names) == expected  # Although `dog` is the first class of the second.
    said = prepare(f"folder:{tmp_path}/odd", "--split=odd", refused=True)
    assert "'label' has classes that other splits lack, such as 'cow'" in said and "--splits" in said
    (tmp_path / "val" / "dog" / "1.json").write_text('{"weather": "rain"}')
    said = prepare(f"folder:{tmp_path}/val", "--split=more", refused=True)
    assert "'weather' is in none of the splits" in said and "--feature=weather=none" in said
    prepare(f"folder:{tmp_path}/val", "--split=more", "--feature=weather=none")
    for path in (tmp_path / "val" / "dog").glob("*.txt"):
        path.unlink()
    assert "'caption', which other splits have" in prepare(
        f"folder:{tmp_path}/val", "--split=mute", "--feature=weather=none"
    )
    assert opened("mute")[0]["caption"] is None and len(opened("all")) == 2 + 3 * 2


def test_a_split_that_was_begun_before_others_were_there(prepare: Prepare, tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    for name in ("a/cat/1.jpg", "a/cat/2.jpg", "b/dog/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(broken.encoded(broken.picture(rng), "JPEG"))
    (tmp_path / "a" / "cat" / "3.jpg").write_bytes(b"")
    prepare(f"folder:{tmp_path}/a", "--split=a", "--max-bad=0", refused=True)
    prepare(f"folder:{tmp_path}/b", "--split=b")
    said = prepare(f"folder:{tmp_path}/a", "--split=a", "--max-bad=0.5", refused=True)
    assert "'a' was begun with other features" in said and "incomplete_a" in said


def test_what_something_else_made_is_left_alone(prepare: Prepare, table: pathlib.Path, tmp_path: pathlib.Path):
    prepare(f"csv:{table}")
    (tmp_path / "out" / "mine" / "1.0.0" / "prepared_train.json").unlink()
    assert "was not made by `prepare`" in prepare(f"csv:{table}", "--split=test", refused=True)


def test_another_call_is_told_apart(prepare: Prepare, table: pathlib.Path):
    prepare(f"csv:{table}", "--shards=2")
    said = prepare(f"csv:{table}", "--shards=3", "--shuffle-seed=4", refused=True)
    assert "shards: 2 -> 3" in said and "seed: 0 -> 4" in said and "another --name" in said
    table.write_text(table.read_text().rpartition("19.png")[0])
    assert "20 examples -> 19" in prepare(f"csv:{table}", "--shards=2", refused=True)


def test_features_that_have_nothing_in_common(prepare: Prepare, opened: Opened, tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    scores = [1, 2.5, "n/a", None, 4, 5]
    lines = []
    for number, score in enumerate(scores):
        (tmp_path / f"{number}.jpg").write_bytes(broken.encoded(broken.picture(rng), "JPEG"))
        objects = {"bbox": [[1, 2, 3.5, 4]] * number, "name": ["x"] * number}
        lines.append(json.dumps({"image": f"{number}.jpg", "score": score, "objects": objects, "tags": ["a"] * number}))
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    said = prepare(f"jsonl:{tmp_path}/x.jsonl", refused=True)
    assert "'score' holds number and text (1.jpg, 2.jpg)" in said and "--feature=score=TYPE" in said
    said = prepare(f"jsonl:{tmp_path}/x.jsonl", "--feature=score=float", "--max-bad=0.2")
    assert "Left out: 1 other" in said
    found = by_key(opened())
    assert {key: own["score"] for key, own in found.items()} == {
        f"{i}.jpg": s for i, s in enumerate(scores) if s != "n/a"
    }
    assert found["5.jpg"]["objects"]["name"] == ("x",) * 5 and found["5.jpg"]["tags"] == ("a",) * 5
    np.testing.assert_array_equal(found["5.jpg"]["objects"]["bbox"], [[1, 2, 3.5, 4]] * 5)
    assert found["0.jpg"]["objects"]["bbox"].shape == (0, 4)


def test_what_no_sample_has_shown_is_left_out_and_told(prepare: Prepare, opened: Opened, tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    lines = []
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(broken.encoded(broken.picture(rng), "JPEG"))
        lines.append(json.dumps({"image": f"{number}.jpg", "n": 0.5 if number == 4 else 1}))
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    said = prepare(f"jsonl:{tmp_path}/x.jsonl", "--sample=2", "--max-bad=0.2")
    assert "Left out: 1 other" in said
    rejected = json.loads((tmp_path / "out" / "mine" / "1.0.0" / "rejects_train.jsonl").read_text())
    assert rejected["key"] == "4.jpg" and rejected["message"] == "n: 0.5 is not integer: it is another number."
    assert "n: number" in prepare(f"jsonl:{tmp_path}/x.jsonl", "--feature=n=float", folder="again")


def test_a_prepared_set_again(prepare: Prepare, opened: Opened):
    prepare("tfds:emoji:validation", "--shards=2")
    before, after = by_key(sources.make("tfds:emoji:validation")), by_key(opened())
    assert after == {key: {**example, "key": key} for key, example in before.items()}
    assert set(before) == {f"emoji-validation.array_record-00000-of-00001[{row}]" for row in range(315)}


def test_a_mixture(prepare: Prepare, opened: Opened, table: pathlib.Path, tmp_path: pathlib.Path):
    parts = [
        {"source": f"csv:{table}", "name": "scans", "weight": 2.0},
        {"source": "tfds:emoji:validation[:10]", "features": {"caption": "name", "label": "group"}, "weight": 1.0},
    ]
    (tmp_path / "mixture.json").write_text(json.dumps({"parts": parts}))
    prepare(tmp_path / "mixture.json", "--splits", "a=#:50%", "b=#50%:")
    before, after = by_key(sources.make({"parts": parts})), opened("a+b")
    assert sorted(base.keys(after)) == sorted(before) and after.roles["caption"] == "caption"
    for key, example in by_key(after).items():
        assert example["caption"] == before[key]["caption"] and example["image"] == before[key]["image"]
        assert after.classes("source")[example["source"]] == before[key]["source"]
        assert after.classes("label")[example["label"]] == before[key]["label"]
    (tmp_path / "mixture.json").write_text("[")
    assert "no file with a mixture" in prepare(tmp_path / "mixture.json", refused=True)


class Captioned:
    """A source of the user, whose caption has a name of its own."""

    name = "captioned"
    roles = {"image": "photo", "caption": "alt"}  # noqa: RUF012

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"photo": broken.png(1, 1, 8, 0, b"\0\0"), "alt": f"text {index}"}


def make(rest: str) -> Captioned:
    return Captioned()


def test_a_source_of_the_user(prepare: Prepare, opened: Opened):
    prepare("tests.data.test_prepare_sources:x", "--no-shuffle")
    source = opened()
    assert source.roles == {"image": "photo", "caption": "caption"}
    assert [example["caption"] for example in source] == ["text 0", "text 1", "text 2"]
    assert list(base.keys(source)) == ["captioned[0]", "captioned[1]", "captioned[2]"]
    said = prepare("tests.data.test_prepare_sources:x", "--feature=photo=none", folder="b", refused=True)
    assert "'photo' is the image, and stays it" in said


def test_larger_images_are_made_smaller(prepare: Prepare, opened: Opened, tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    rgba = np.dstack([broken.picture(rng, 80, 120), np.full((80, 120), 128, np.uint8)])
    exif = Image.Exif()
    exif[0x0112] = 6  # A quarter turn.
    made = {
        "large.jpg": broken.encoded(broken.picture(rng, 80, 120), "JPEG"),
        "turned.jpg": broken.encoded(broken.picture(rng, 80, 120), "JPEG", exif=exif),
        "gray.png": broken.encoded(broken.picture(rng, 99, 64)[..., 0].copy(), "PNG"),
        "alpha.png": broken.encoded(rgba, "PNG"),
        "small.png": broken.encoded(broken.picture(rng, 32, 40), "PNG"),
        "deep.png": broken.deep_png(rng.integers(0, 65536, (80, 90), dtype=np.uint16)),
        "long.png": broken.encoded(broken.picture(rng, 33, 400), "PNG"),
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    prepare(f"folder:{tmp_path}", "--resize=32")
    found = {key: example["image"] for key, example in by_key(opened()).items()}
    assert found["small.png"] == made["small.png"] and found["deep.png"] == made["deep.png"]
    sizes = {name: formats.size(content) for name, content in found.items() if name not in ("small.png", "deep.png")}
    assert sizes == {
        "large.jpg": (32, 48),
        "turned.jpg": (48, 32),
        "gray.png": (50, 32),
        "alpha.png": (32, 48),
        "long.png": (32, 388),
    }
    spec = inputs.Input()
    for name in ("large.jpg", "turned.jpg", "gray.png"):
        assert formats.kind(found[name]) == "jpeg"
        whole, small = (Image.fromarray(formats.decode(each[name], spec)) for each in (made, found))
        wanted = np.asarray(whole.resize(small.size, Image.Resampling.BOX), int)
        assert abs(np.asarray(small, int) - wanted).mean() < 6
    assert Image.open(io.BytesIO(found["gray.png"])).mode == "L"
    assert np.asarray(Image.open(io.BytesIO(found["alpha.png"])))[..., 3].tolist() == [[128] * 48] * 32


def test_deep_images_are_stored_as_they_are(prepare: Prepare, opened: Opened, tmp_path: pathlib.Path):
    deep = broken.deep_png(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    (tmp_path / "a.png").write_bytes(deep)
    prepare(f"folder:{tmp_path}")
    assert opened()[0]["image"] == deep
    features = json.loads((tmp_path / "out" / "mine" / "1.0.0" / "features.json").read_text())
    image = features["featuresDict"]["features"]["image"]["image"]
    assert image["dtype"] == "uint16" and image["shape"]["dimensions"][-1] == "1"


def test_nothing_that_can_be_used(prepare: Prepare, tmp_path: pathlib.Path):
    whole = broken.encoded(broken.picture(np.random.default_rng(0)), "JPEG")
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(whole[:-100])
    said = prepare(f"folder:{tmp_path}", refused=True)
    assert "none of 3 examples can be used; the last: " in said and "end before the image does" in said
    assert not list((tmp_path / "out").rglob("*.json"))
