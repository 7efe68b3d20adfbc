"""Exported features are those of the predict function, row by row with their ids, in both formats."""

import dataclasses
import importlib.util
import pathlib
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from tests.evals import probed
from tests.evals.fake import World
from vitfm.config import ConfigError
from vitfm.evals import base

SPEC = {"name": "features", "source": "test", "path": "out/test.npz", "prefix": "p", "function": "features"}
IMAGES = 11


def world(directory: pathlib.Path, devices: int = 1) -> World:
    features, labels = probed.clouds(IMAGES, 3, (2, 1, 5), 0)
    made = probed.world(features[:1], [0], features, [f"kind {label}" for label in labels], devices)
    made.context = dataclasses.replace(made.context, directory=directory)
    return made


def expected() -> np.ndarray:
    return probed.clouds(IMAGES, 3, (2, 1, 5), 0)[0]


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 4), (1, 64), (4, 3)])
def test_npz_holds_every_image_once(tmp_path: pathlib.Path, devices: int, batch_size: int) -> None:
    w = world(tmp_path, devices)
    assert w.evaluate(**SPEC, batch_size=batch_size) == {"p/features/rows": IMAGES}
    assert w.asked.sum() == IMAGES
    with np.load(tmp_path / "out/test.npz") as file:
        np.testing.assert_array_equal(file["features"], expected())
        assert file["features"].dtype == np.float32
        np.testing.assert_array_equal(file["id"], np.arange(IMAGES))


def test_parquet_holds_the_same_with_ids_and_shape(tmp_path: pathlib.Path) -> None:
    w = world(tmp_path)
    w.evaluate(**{**SPEC, "path": "test.parquet", "id": "kind"})
    table = pyarrow.parquet.read_table(tmp_path / "test.parquet")
    assert table.schema.metadata[b"shape"] == b"[2, 1, 5]"
    found = np.array(table["features"].to_pylist(), np.float32).reshape(IMAGES, 2, 1, 5)
    np.testing.assert_array_equal(found, expected())
    assert table["id"].to_pylist() == [example["kind"] for example in w.context.open_source("test")]


def test_an_evaluation_replaces_the_file_of_the_one_before(tmp_path: pathlib.Path) -> None:
    w = world(tmp_path)
    evaluate = base.make("test", SPEC, w.context)
    for scale in (1.0, 2.0):
        w.context.predict["features"] = lambda params, image, scale=scale: scale * expected()[image - 1]
        assert dict(evaluate({})) == {"p/features/rows": IMAGES}
        with np.load(tmp_path / "out/test.npz") as file:
            np.testing.assert_array_equal(file["features"], np.float32(scale) * expected())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "test.csv"}, r"config\.evals\.test\.path = 'test\.csv' must end in \.npz or \.parquet"),
        ({"id": "knd"}, "did you mean 'kind'"),
        ({"id": "tags"}, r"config\.evals\.test\.id = 'tags': \('a', 'b'\) is neither a text nor a whole number"),
        ({"function": "logits"}, "needs logits, which this objective does not offer; it offers features"),
        ({"batch_size": 0}, "must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: pathlib.Path, change: dict[str, Any], message: str
) -> None:
    w = world(tmp_path)
    for example in w.context.open_source("test"):
        example["tags"] = ["a", "b"]
    with pytest.raises(ConfigError, match=message):
        w.evaluate(**{**SPEC, **change})
    assert not w.batches and not [*tmp_path.iterdir()]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(ConfigError, match=r"pip install 'vitfm\[parquet\]'"):
        world(tmp_path).evaluate(**{**SPEC, "path": "test.parquet"})
    assert world(tmp_path).evaluate(**SPEC)
