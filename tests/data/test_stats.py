"""`python -m vitfm.data stats`: moments are exact, whatever is bad is counted, and what it prints can be used."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.data import broken
from vitfm import overrides
from vitfm import recipe as recipes
from vitfm.config import ConfigError
from vitfm.data import inputs, measure, sources, stats

RNG = np.random.default_rng(0)


def command(*words: str) -> None:
    parser = argparse.ArgumentParser()
    stats.add_parser(parser.add_subparsers(required=True))
    arguments, rest = parser.parse_known_args(["stats", *words])
    arguments.run(arguments, rest)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[np.ndarray]]:
    """Twelve PNGs of several sizes, and four files that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    images = [broken.picture(RNG) for _ in range(12)]
    for i, image in enumerate(images):
        (folder / f"{i:02}.png").write_bytes(broken.encoded(image, "PNG"))
    (folder / "03b.png").write_bytes(b"")
    (folder / "04b.png").write_bytes(broken.encoded(images[0], "PNG")[:400])
    (folder / "05b.png").write_bytes(broken.encoded(images[0], "PNG")[:300])
    (folder / "06b.png").write_bytes(broken.deep_png(np.zeros((4, 4), np.uint16)))
    return folder, images


def scans(folder: pathlib.Path, high: int = 4000, dtype: str = "uint16", count: int = 6) -> list[np.ndarray]:
    values = [RNG.integers(5, high, (20, 30 + i), endpoint=True).astype(dtype) for i in range(count)]
    values[0][0, 0] = high
    for i, one in enumerate(values):
        tags = [(33550, "d", 3, (2.0 + i, 1.0, 0.0), True)]
        tifffile.imwrite(folder / f"{i}.tif", one, extratags=tags, photometric="minisblack")
    return values


def test_each_image_counts_the_same(pictures: tuple[pathlib.Path, list[np.ndarray]]):
    folder, images = pictures
    found = measure.measure(sources.make(f"folder:{folder}"))
    alone = [image.reshape(-1, 3) / 255 for image in images]
    mean = np.mean([one.mean(0) for one in alone], axis=0)
    variance = np.mean([one.var(0) + (one.mean(0) - mean) ** 2 for one in alone], axis=0)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, np.sqrt(variance), rtol=1e-12)
    np.testing.assert_array_equal(found.moments.low, np.min([image.min((0, 1)) for image in images], axis=0))
    np.testing.assert_array_equal(found.moments.high, np.max([image.max((0, 1)) for image in images], axis=0))
    middle = np.percentile(np.concatenate([image.reshape(-1, 3) for image in images]), 50, axis=0)
    np.testing.assert_array_equal(found.percentiles[50], middle)


def test_what_is_bad_is_counted_by_reason(pictures: tuple[pathlib.Path, list[np.ndarray]]):
    folder, images = pictures
    found = measure.measure(sources.make(f"folder:{folder}"))
    assert (found.examples, found.sampled, found.read) == (16, 16, 12)
    assert {reason: (count, key) for reason, (count, key, _) in found.bad.items()} == {
        "truncated": (2, "04b.png"),
        "empty": (1, "03b.png"),
        "depth": (1, "06b.png"),
    }
    assert (found.kinds, found.dtypes, found.channels) == ({"png": 12}, {"uint8": 12}, {3: 12})
    areas = sorted((image.shape[:2] for image in images), key=np.prod)
    assert found.sizes[0] == areas[0] and found.sizes[2] == areas[-1]


def test_threads_change_no_bit(pictures: tuple[pathlib.Path, list[np.ndarray]]):
    source = sources.make(f"folder:{pictures[0]}")
    one, several = (measure.measure(source, threads=threads).moments for threads in (1, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, several, strict=True))


def test_a_sample_is_spread_over_the_source(pictures: tuple[pathlib.Path, list[np.ndarray]]):
    seen: list[None] = []
    source = sources.make(f"folder:{pictures[0]}")
    found = measure.measure(source, sample=4, seen=lambda: seen.append(None))
    assert found.sampled == 4 == len(seen) and found.examples == 16


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 10**6), st.sampled_from([0.0, 1e6]))
def test_merged_moments_are_those_of_all(counts: list[int], seed: int, offset: float):
    """However far the values lie from 0."""
    parts = [np.random.default_rng([seed, i]).normal(offset, 1, (count, 2)) for i, count in enumerate(counts)]
    moments = [
        measure.Moments(float(len(part)), part.mean(0), np.square(part - part.mean(0)).sum(0), part.min(0), part.max(0))
        for part in parts
    ]
    total = moments[0]
    for other in moments[1:]:
        total = total.merged(other)
    whole = np.concatenate(parts)
    assert total.weight == len(whole)
    np.testing.assert_allclose(total.mean, whole.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total.std, whole.std(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal((total.low, total.high), (whole.min(0), whole.max(0)))


def test_blocks_of_an_image_are_merged(monkeypatch: pytest.MonkeyPatch):
    image = RNG.integers(0, 65536, (37, 20, 3)).astype(np.uint16)
    whole = measure.of_image(image)
    monkeypatch.setattr(measure, "_BLOCK", 100)
    parts = measure.of_image(image)
    np.testing.assert_allclose(parts.mean, image.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(parts.std, image.std((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(whole.std, parts.std, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "high", "limits"), [("uint16", 4000, (0, 4095)), ("uint8", 200, (0, 255)), ("int16", 3000, (5, 3000))]
)
def test_type_channels_and_range_are_found(tmp_path: pathlib.Path, dtype: str, high: int, limits: tuple[int, int]):
    values = scans(tmp_path, high, dtype)
    found = measure.measure(sources.make(f"folder:{tmp_path}"))
    assert found.spec.channels == 1 and found.dtypes == {dtype: 6}
    assert found.spec.dtype == (dtype if dtype != "int16" else "float32") and found.spec.range == limits
    mean = np.mean([one.mean() for one in values])
    np.testing.assert_allclose(found.mean, (mean - limits[0]) / (limits[1] - limits[0]), rtol=1e-12)
    assert found.spacing == ((1.0, 2.0), (1.0, 7.0))


def test_gray_images_among_colours_do_not_make_all_gray(tmp_path: pathlib.Path):
    for i, image in enumerate((broken.picture(RNG)[..., 0].copy(), broken.picture(RNG))):
        (tmp_path / f"{i}.png").write_bytes(broken.encoded(image, "PNG"))
    found = measure.measure(sources.make(f"folder:{tmp_path}"))
    assert found.spec == inputs.Input() and found.channels == {1: 1, 3: 1} and found.read == 2


def test_what_is_asked_for_is_kept(tmp_path: pathlib.Path):
    scans(tmp_path)
    options: dict[str, Any] = {"dtype": "float32", "range": (0, 8000), "channels": 3}
    found = measure.measure(sources.make(f"folder:{tmp_path}"), options=options)
    assert found.spec == inputs.make(dtype="float32", range=(0, 8000)) and found.mean.shape == (3,)
    with pytest.raises(ConfigError, match=r"None of 6 images .* such as 0\.tif \(depth\): Numbers of type uint16"):
        measure.measure(sources.make(f"folder:{tmp_path}"), options={"dtype": "uint8", "channels": 1})
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "a.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"None of the first 1 images .* a\.png \(empty\)"):
        measure.measure(sources.make(f"folder:{tmp_path / 'nothing'}"))


def test_lines_to_paste_make_a_recipe(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "scans").mkdir()
    values = scans(tmp_path / "scans")
    (tmp_path / "scans" / "9.tif").write_bytes(b"<html>")
    command(f"folder:{tmp_path / 'scans'}", f"--out={tmp_path / 'stats.json'}")
    printed = capsys.readouterr().out
    assert "all 7 images, 6 of them good" in printed and "bad, format (1): 9.tif: 6 bytes that are no image" in printed
    pasted = [word.strip().replace("'", "") for word in printed.partition("To train on these:")[2].split("\n")]
    pairs = overrides.split([word for word in pasted if word], "--config", ())
    source = ("data.source", f"folder:{tmp_path / 'scans'}")
    config = overrides.load("configs/mae.py", [source, ("evals", "{}"), *pairs])
    config.data.augment = {key: config.data.augment[key] for key in ("mean", "std")}
    data = recipes.make_data(recipes.parse(config))
    assert data.spec == inputs.make(dtype="uint16", range=(0, 4095), channels=1)
    stored = json.loads((tmp_path / "stats.json").read_text())
    assert data.facts.mean == pytest.approx(stored["mean"], abs=1e-3)
    assert stored["mean"][0] == pytest.approx(np.mean([one.mean() for one in values]) / 4095)
    assert stored["bad"]["format"]["count"] == 1 and stored["max"] == [4000] and stored["dtypes"] == {"uint16": 6}


def test_words_that_are_unknown_are_refused():
    with pytest.raises(ConfigError, match="Unknown argument '--rnage=0,1': did you mean '--range'"):
        command("tfds:emoji:train", "--rnage=0,1")
    with pytest.raises(ConfigError, match="--sample=0 must be at least 1"):
        command("tfds:emoji:train", "--sample=0")
    for threads in (0, -1):
        with pytest.raises(ConfigError, match=f"--threads={threads} must be at least 1"):
            command("tfds:emoji:train", f"--threads={threads}")
    for bands in ("0.5", "red", "()"):
        with pytest.raises(ConfigError, match=r"--bands=.* must be numbers of channels"):
            command("tfds:emoji:train", f"--bands={bands}")


def test_where_it_is_written_to_is_seen_to_before(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    command("tfds:emoji:validation[:3]", "--bands=0", f"--out={tmp_path}/new/x.json")
    assert json.loads((tmp_path / "new/x.json").read_text())["input"]["channels"] == 1
    monkeypatch.setattr(measure, "measure", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out=.*/file/x\.json can't be written: .*"):
        command("tfds:emoji:validation[:3]", f"--out={tmp_path}/file/x.json")
    with pytest.raises(ConfigError, match=r"--out=.*/new is a folder"):
        command("tfds:emoji:validation[:3]", f"--out={tmp_path}/new")


def test_options_are_read_from_words(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    tifffile.imwrite(
        tmp_path / "a.tif", np.full((4, 4, 5), 7, np.int16), photometric="minisblack", planarconfig="contig"
    )
    command(f"folder:{tmp_path}", "--bands=4,0", "--range=-3,17")
    printed = capsys.readouterr().out
    for line in ("channels=2", "input.bands='(4, 0)'", "input.range='(-3.0, 17.0)'", "augment.mean='(0.5, 0.5)'"):
        assert f"--config.data.{line}\n" in printed
