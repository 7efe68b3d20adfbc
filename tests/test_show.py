"""Pages about data: batches as the loss gets them, what stands for what, and images that are nearly alike."""

from __future__ import annotations

import base64
import io
import json
import pathlib
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import PIL.Image
import pytest

from tests import tiny
from tests.metrics.test_report import needs_browser, visit
from tests.objectives import specs
from vitfm import program, recipe, train_step
from vitfm import run as runs
from vitfm.config import ConfigError
from vitfm.data import __main__ as command_line
from vitfm.data import loader, pipeline, sources, tokenizer
from vitfm.objectives import base
from vitfm.show import batches, cards


def told(*arguments: str) -> None:
    """`python -m vitfm.data` with these arguments, and it works."""
    assert command_line.main(arguments) == 0


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What it says to who has something to mend."""
    assert command_line.main(arguments) == 2
    return " ".join(capsys.readouterr().err.split())


def built(name: str, seed: int = 3, **changes: Any) -> program.Program:
    """The program of an objective's small recipe."""
    spec = specs.BY_NAME[name.removesuffix("+mix")][name.removesuffix("+mix")]
    config = {
        "objective": spec.objective,
        "data": {**specs.DATA, **spec.data},
        "teacher": spec.teacher and {"run": "", **spec.teacher},
        "total": 5,
        "batch_size": 8,
        "seed": seed,
    }
    if name.endswith("+mix"):
        config["data"] |= {"mix": {"mixup": 0.8, "cutmix": 1.0}}
    return program.build(recipe.parse({**config, **changes}))


Given = Callable[[int], tuple[Mapping[str, Any], jax.Array]]


def given_by(p: program.Program) -> Given:
    """step -> the batch and the keys that its loss is given, by the step's own functions."""

    def caught(params: Any, extra: Any, batch: Any, key: jax.Array, step: jax.Array) -> tuple[jax.Array, base.Aux]:
        return params["x"], base.Aux({"batch": batch, "key": jax.random.key_data(key)})

    spy = base.Objective(p.objective.init, caught, {}, "mean")
    gradients = jax.jit(train_step.gradients_of(spy, p.data.preprocess_train, 1, p.data.mix))

    def given(step: int) -> tuple[Mapping[str, Any], jax.Array]:
        batch = {name: value for name, value in next(p.loader.batches(step)).items() if name != loader.REPLACED}
        keys = train_step.example_keys(p.recipe.seed, step, p.recipe.batch_size)
        metrics = gradients({"x": jnp.zeros(())}, {}, batch, keys, step)[1].metrics
        return metrics["batch"], jax.random.wrap_key_data(metrics["key"])

    return given


@pytest.mark.parametrize("name", ["clip", "supervised+mix", "dino"])
def test_the_batch_is_the_one_that_the_loss_gets(name: str):
    p = built(name)
    viewer, given = batches.Viewer(p, sources.make(p.data.source)), given_by(p)
    for step, rows in ((0, 8), (4, 3)):
        wanted, _ = given(step)
        shown = viewer.batch(step, rows)
        assert shown.columns.keys() == wanted.keys() and shown.size == 8
        same = lambda own, true, rows=rows: np.testing.assert_allclose(own, np.asarray(true)[:rows], atol=2e-5)
        jax.tree.map(same, dict(shown.columns), dict(wanted))
        assert [origin.index for origin in shown.origins] == p.loader.batch_ids(step)[:rows].tolist()
        assert not any(origin.passed for origin in shown.origins)


@pytest.mark.parametrize(("name", "share"), [("mae", 0.75), ("simmim", 0.6), ("beit", 6 / 16)])
def test_masks_hide_as_much_as_is_asked_for(name: str, share: float):
    p = built(name)
    mask = batches.Viewer(p, sources.make(p.data.source)).batch(0, 8).masks["image"]
    assert mask.shape[:2] == (8, 4) and mask.dtype == bool
    assert set(mask.sum((1, 2)).tolist()) == {int(np.ceil(16 * share - 1e-6))}
    assert len({row.tobytes() for row in mask}) > 1


def test_masks_of_views_hide_half_of_them():
    p = built("dinov2")
    mask = batches.Viewer(p, sources.make(p.data.source)).batch(0, 8).masks["global"]
    assert mask.shape == (8, 2, 4, 4) and ((mask.any((2, 3))).sum(1) == 1).all()


def test_the_mask_shown_is_the_one_that_is_trained_on():
    """Of the positions of hidden patches an encoder that does not see them learns nothing."""
    p = built("mae", objective={**specs.BY_NAME["mae"]["mae"].objective, "model": {"position": "learned", **specs.VIT}})
    batch, keys = given_by(p)(2)
    mask = batches.Viewer(p, sources.make(p.data.source)).batch(2, 8).masks["image"]
    params = jax.jit(p.objective.init)(jax.random.key(0), batch).params
    loss = lambda encoder: p.objective.loss(
        {**params, "encoder": encoder}, {}, {"image": batch["image"][5:6]}, keys[5:6], jnp.int32(2)
    )[0]
    slopes = jax.jit(jax.grad(loss))(params["encoder"])
    (positions,) = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(slopes) if "position" in jax.tree_util.keystr(path)
    ]
    moved = np.abs(np.asarray(positions).reshape(-1, positions.shape[-1])[-16:]).max(1) > 0
    np.testing.assert_array_equal(moved, ~mask[5].reshape(-1))


def photograph(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    """An image like no other: blurred noise."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    return np.uint8(np.clip(128 + 900 * cv2.GaussianBlur(noise, (0, 0), 9), 0, 255))


def encoded(pixels: np.ndarray, format_: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, format_, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """24 images with captions, three of which can't be used, in a folder."""
    root = tmp_path / "images"
    root.mkdir()
    for number in range(24):
        content = encoded(photograph(number))
        content = {3: b"", 11: content[: len(content) // 2], 17: b"<html>"}.get(number, content)
        (root / f"{number:02}.jpg").write_bytes(content)
        (root / f"{number:02}.txt").write_text("a dog" if number % 2 else f"a picture of number {number} " * 3)
    (root / "copy.jpg").write_bytes((root / "00.jpg").read_bytes())
    (root / "copy.txt").write_text("a </script> & <b>copy</b>")
    return root


def settings(root: pathlib.Path) -> list[str]:
    config = "--config.data.captions={'name':'caption'}"
    return [
        f"--config={tiny.ROOT}/tests/tiny.py",
        f"--config.data.source=folder:{root}",
        config,
        "--config.data.columns={}",
    ]


def test_the_page_shows_what_stands_for_what(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / "pages/data.html"
    told("show", *settings(folder), "--batches=2", "--rows=100", f"--out={out}")
    page, said = out.read_text(), " ".join(capsys.readouterr().out.split())
    assert "3 of 25 examples can't be used: 1 empty, 1 format, 1 truncated" in said and said.endswith(str(out))
    assert page.count('<article class="card example">') == 32
    for key, reason in (("03.jpg", "empty"), ("11.jpg", "truncated"), ("17.jpg", "format")):
        assert f"stands for {key}: {reason}, " in page
    assert "1 image is a copy of another" in page
    assert "&lt;b" in page and "<b>copy" not in page and page.count("</script>") == 1
    assert "cut to 16" in page and "<h3>Step 0</h3>" in page and "<h3>Step 1</h3>" in page
    assert re.search(r"<dt title=\"jpeg RGB\">jpeg RGB</dt>.*?>22</dd>", page, re.DOTALL)


def test_a_page_asks_nothing_of_the_network(folder: pathlib.Path, tmp_path: pathlib.Path):
    out = tmp_path / "data.html"
    told("show", *settings(folder), "--batches=1", "--rows=2", f"--out={out}")
    page = out.read_text()
    assert set(re.findall(r"https?://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}  # A name, never fetched.
    assert all(source.startswith("data:image/webp;base64,") for source in re.findall(r'src="([^"]+)"', page))
    assert "default-src 'none'" in page


@needs_browser
def test_a_picture_is_enlarged_in_a_browser(folder: pathlib.Path, tmp_path: pathlib.Path):
    out = tmp_path / "data.html"
    told("show", *settings(folder), "--batches=1", "--rows=2", f"--out={out}")
    click = 'document.querySelector(".picture").click();'
    note = 'document.body.dataset.seen = document.querySelector("dialog[open] img").src.slice(0, 16);'
    assert 'data-seen="data:image/webp;"' in visit(out, click + note)


def test_the_names_of_files_may_be_odd(folder: pathlib.Path, tmp_path: pathlib.Path):
    odd = b"\xff odd.jpg".decode("utf-8", "surrogateescape")
    try:
        (folder / "00.jpg").rename(folder / odd)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    (folder / "00.txt").rename(folder / odd.replace(".jpg", ".txt"))
    out = tmp_path / "data.html"
    told("show", *settings(folder), "--batches=2", "--rows=16", f"--out={out}")
    assert "odd.jpg" in out.read_text()
    told("duplicates", f"folder:{folder}", f"--out={out}", f"--json={tmp_path}/x.json", f"--keep={tmp_path}/keep.txt")
    kept = sources.make(f"folder:{folder}#keep={tmp_path}/keep.txt")
    assert len({odd, "copy.jpg"} & {*kept.keys()}) == 1 and len(kept) == 21
    for number in range(1, 24):
        (folder / f"{number:02}.jpg").unlink()
    (folder / "copy.jpg").unlink()
    told("duplicates", f"folder:{folder}", f"--out={out}", f"--keep={tmp_path}/keep.txt")
    assert list(sources.make(f"folder:{folder}#keep={tmp_path}/keep.txt").keys()) == [odd]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows=0"], "--rows=0 must be at least 1"),
        (["--summary-sample=0"], "--summary-sample=0 must be"),
        (["--step=-1"], "--step=-1 must be at least 0"),
        (["--row=3"], "Unknown argument '--row=3': did you mean '--rows'"),
        (["--config.data.image=picture"], "config.data.image = 'picture' is no feature"),
        (["--config.data.sauce=x"], "Unknown key config.data.sauce: did you mean 'source'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, folder: pathlib.Path, capsys: pytest.CaptureFixture
):
    assert message in refused(capsys, "show", *settings(folder), *arguments)


def data_of(**options: Any) -> pipeline.Data:
    return pipeline.make(**{"source": None, "image_size": 32, **options})


def card(
    data: pipeline.Data, columns: Mapping[str, Any], long: Any = None, text: str | None = None, **rest: Any
) -> dict:
    """The only row of a batch, as the page has it."""
    origin = batches.Origin(0, 7, "the key", text, rest.pop("passed", ()))
    shown = batches.Batch(0, 1, (origin,), columns, rest.pop("masks", {}))
    return cards.batch(shown, data, long)["examples"][0]


def pixels_of(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.partition(",")[2])
    return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))


def test_pixels_are_denormalised():
    options = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    pixels = photograph(0, 32, 32)
    image = ((pixels / 255 - options["mean"]) / options["std"]).astype(np.float32)[None]
    picture = card(data_of(augment=options), {"image": image})["groups"][0]["pictures"][0]
    np.testing.assert_array_equal(pixels_of(picture["uri"]), pixels)


def test_what_the_tokenizer_cuts_is_marked():
    data = data_of(captions={"name": "text"}, tokenizer={"length": 6})
    long, text = tokenizer.make(length=100), "a red apple and a green pear on the table"
    ids, mask = data.tokenizer(text)
    shown = card(data, {"image": np.zeros((1, 32, 32, 3)), "text": ids, "text_mask": mask}, long, text)["text"]
    assert f"{shown['kept']} {shown['lost']}" == text and shown["lost"]
    assert shown["tokens"] == f"{long(text)[1].sum()} tokens, cut to 6"


def test_mixed_labels_are_shares():
    label = {"feature": "kind", "classes": ("cat", "dog", "cow"), "multi_label": False}
    data = data_of(label=label)
    columns = {"image": np.zeros((1, 32, 32, 3)), "label": np.array([[0.3, 0.0, 0.7]]), "weight": np.array([0.5])}
    shown = card(data, columns)
    assert shown["labels"] == [{"name": "cow", "share": "70%"}, {"name": "cat", "share": "30%"}]
    assert shown["numbers"] == ["weight 0.5"]
    assert card(data, {**columns, "label": np.array([1])})["labels"] == [{"name": "dog", "share": ""}]


def test_patches_are_put_together_again():
    data = data_of(patches={"patch_size": 8, "max_patches": 12}, crop=None)
    pixels = photograph(1, 60, 100)
    batch = data.preprocess_eval({"image": jax.tree.map(lambda leaf: leaf[None], data.load_eval.cut(pixels, None))})
    group = card(data, jax.tree.map(np.asarray, dict(batch)))["groups"][0]
    rows, columns = batch["image"]["grid"][0].tolist()
    assert group["pictures"][0]["grid"] == (rows, columns)
    assert group["caption"] == f"{rows} × {columns} = {rows * columns} of 12 patches"
    wanted = np.asarray(PIL.Image.fromarray(pixels).resize((8 * columns, 8 * rows), PIL.Image.Resampling.BILINEAR))
    np.testing.assert_allclose(pixels_of(group["pictures"][0]["uri"]), wanted, atol=2)


def test_hidden_squares_are_grey():
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 1, 2] = True
    groups = card(data_of(), {"image": np.ones((1, 32, 32, 3))}, masks={"image": mask})["groups"]
    seen = pixels_of(groups[1]["pictures"][0]["uri"])
    assert groups[1]["caption"] == "94% of it is seen"
    assert (seen[8:16, 16:24] == 128).all() and (seen == 255).all(2).sum() == 32 * 32 - 64


def test_boxes_and_masks_are_drawn():
    columns = {
        "image": np.zeros((1, 32, 32, 3)),
        "box": np.array([[[8.0, 0.0, 16.0, 32.0], [0.0, 0.0, 0.0, 0.0]]]),
        "box_mask": np.array([[True, False]]),
        "box_label": np.array([[5, 0]]),
        "segment": np.arange(32 * 32).reshape(1, 32, 32) // 512,
    }
    groups = card(data_of(), columns)["groups"]
    assert groups[0]["pictures"][0]["boxes"] == [(["25.00", "0.00", "25.00", "100.00"], "5")]
    drawn = pixels_of(groups[1]["pictures"][0]["uri"])
    assert len({tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}) == 2


def test_images_of_many_channels_are_made_visible():
    data = data_of(channels=5, augment={"mean": (0.5,) * 5, "std": (0.25,) * 5})
    picture = card(data, {"image": np.random.default_rng(0).normal(size=(1, 32, 32, 5))})["groups"][0]["pictures"][0]
    assert pixels_of(picture["uri"]).shape == (32, 32, 3)


@pytest.fixture
def two_folders(tmp_path: pathlib.Path) -> tuple[str, str]:
    """A training set with copies in it, and a test set that has two of its images, one of them altered."""
    train, test = tmp_path / "train", tmp_path / "test"
    for root in (train, test):
        root.mkdir()
    for number in range(12):
        (train / f"{number:02}.jpg").write_bytes(encoded(photograph(number)))
        (test / f"{number:02}.png").write_bytes(encoded(photograph(100 + number), "PNG"))
    (train / "again.jpg").write_bytes(encoded(photograph(4), quality=40))
    (train / "blank.png").write_bytes(encoded(np.full((50, 50, 3), 255, np.uint8), "PNG"))
    (train / "broken.jpg").write_bytes(b"")
    (test / "leak.jpg").write_bytes(encoded(cv2.resize(photograph(7), (60, 45), interpolation=cv2.INTER_AREA)))
    (test / "copy.jpg").write_bytes((train / "09.jpg").read_bytes())
    (test / "blank.png").write_bytes(encoded(np.full((60, 60, 3), 255, np.uint8), "PNG"))
    return f"folder:{train}", f"folder:{test}"


def test_leakage_is_found_told_and_mended(
    two_folders: tuple[str, str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    files = {name: tmp_path / f"out/{name}" for name in ("page.html", "all.json", "keep.txt")}
    written = (f"--out={files['page.html']}", f"--json={files['all.json']}", f"--keep={files['keep.txt']}")
    told("duplicates", *two_folders, *written)
    said = " ".join(capsys.readouterr().out.split())
    train, test = two_folders
    assert f"2 of 15 images of {test} (13.3%) have a near-duplicate in {train}" in said
    assert f"2 of 14 images of {train} (14.3%) have a near-duplicate among them" in said
    assert "2 images of one colour all over" in said and "1 image can't be read" in said

    found = json.loads(files["all.json"].read_text())
    groups = {tuple(sorted(one["key"] for one in group)) for group in found["groups"]}
    assert groups == {("04.jpg", "again.jpg"), ("07.jpg", "leak.jpg"), ("09.jpg", "copy.jpg")}
    assert found["leakage"] == [
        {"of": train, "in": test, "images": 2},
        {"of": test, "in": train, "images": 2},
    ]
    assert [one["key"] for one in found["flat"]] == ["blank.png", "blank.png"]
    assert [(one["key"], one["reason"]) for one in found["unreadable"]] == [("broken.jpg", "empty")]

    page = files["page.html"].read_text()
    assert page.count('<figure class="mate">') == 6 + 2 and 'id="across"' in page and 'id="within"' in page

    kept = sources.make(f"{train}#keep={files['keep.txt']}")
    dropped = {"07.jpg", "09.jpg", "again.jpg", "broken.jpg"}
    assert set(kept.keys()) == {f"{n:02}.jpg" for n in range(12)} - dropped | {"blank.png"}
    again = (
        sources.make(f"{train}#keep={files['keep.txt']}#:50%"),
        sources.make(f"{train}#keep={files['keep.txt']}#50%:"),
    )
    assert sorted([*again[0].keys(), *again[1].keys()]) == sorted(kept.keys())


def test_a_list_of_other_keys_is_refused(two_folders: tuple[str, str], tmp_path: pathlib.Path):
    (tmp_path / "keep.txt").write_text("elsewhere/1.jpg\n")
    with pytest.raises(ConfigError, match=r"none of 15 examples has a key that .*keep\.txt lists, such as 'elsewhere"):
        sources.make(f"{two_folders[0]}#keep={tmp_path}/keep.txt")
    with pytest.raises(ConfigError, match="can't be read"):
        sources.make(f"{two_folders[0]}#keep={tmp_path}/gone.txt")


def test_embeddings_find_what_the_model_takes_for_the_same(
    two_folders: tuple[str, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """A model that sees mean colours; the images come decoded whole, in batches."""
    seen = []

    def embed(images: list[np.ndarray]) -> np.ndarray:
        seen.extend(image.shape for image in images)
        grids = [cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).reshape(-1) - 128.0 for image in images]
        return np.array(grids, np.float32)

    config = ml_collections.ConfigDict({"data": {}})
    fake = types.SimpleNamespace(config=config, predict={"embed_image": embed}, embed_image=embed)
    monkeypatch.setattr(runs, "load", lambda path: fake)
    told(
        "duplicates",
        *two_folders,
        "--run=runs/x",
        "--distance=0.02",
        f"--out={tmp_path}/page.html",
        f"--json={tmp_path}/x",
    )
    assert (90, 120, 3) in seen and (45, 60, 3) in seen and len(seen) == 29
    groups = {
        tuple(sorted(one["key"] for one in group)) for group in json.loads((tmp_path / "x").read_text())["groups"]
    }
    assert groups >= {("04.jpg", "again.jpg"), ("07.jpg", "leak.jpg"), ("09.jpg", "copy.jpg")}
    assert "cosine 1.000" in (tmp_path / "page.html").read_text()
    assert "embeddings of runs/x, cosine from 0.98" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=embedding"], "--method=embedding needs --run=DIR"),
        (["--method=perceptual", "--run=x"], "--method=embedding needs --run=DIR"),
        (["--run=x", "--flips"], "--flips is for --method=perceptual"),
        (["--distance=0.1"], "--distance=0.1 counts bits of 64: a whole number"),
        (["--distance=40"], "--distance=40 counts bits of 64, from 0 to 15"),
        (["--image=picture"], "--image=picture is no feature of folder:"),
        (["--jason=x"], "Unknown argument '--jason=x': did you mean '--json'"),
        (["--run=nowhere"], "There is no run in nowhere"),
    ],
)
def test_searches_that_make_no_sense_are_refused(
    arguments: list[str], message: str, two_folders: tuple[str, str], capsys: pytest.CaptureFixture
):
    assert message in refused(capsys, "duplicates", *two_folders, *arguments)


def test_a_source_without_a_readable_image_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert "can be read; the first: 0 bytes" in refused(capsys, "duplicates", f"folder:{tmp_path}")
