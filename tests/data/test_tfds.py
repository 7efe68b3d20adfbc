"""What a prepared TFDS data set says of its examples: columns, keys, roles, without an image being touched."""

from __future__ import annotations

import itertools
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vitfm.config import ConfigError
from vitfm.data import labels, sources
from vitfm.data.bad import BadExample
from vitfm.data.sources import base


class Shop(tfds.core.GeneratorBasedBuilder):
    """Of the kind that TFDS's own builders make: nested, of several shards, with labels that are not known."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "thumbnail": tfds.features.Image(),
            "kind": tfds.features.ClassLabel(names=["shoe", "hat"]),
            "maker": tfds.features.ClassLabel(names=["x", "y"]),
            "text": tfds.features.Text(),
            "box": {"corners": tfds.features.Tensor(shape=(None, 4), dtype=np.float32), "of": tfds.features.Text()},
            "number": np.int64,
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "kind")
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(200), "test": self._generate_examples(3)}

    def _generate_examples(self, count: int) -> Any:
        for i in range(count):
            box = {"corners": np.full((i % 3, 4), i, np.float32), "of": f"é{i}"}
            images = {"image": b"\xff\xd8%d" % i, "thumbnail": b"\xff\xd8"}
            known = {"kind": -1 if i == 5 else i % 2, "maker": 0}
            yield i, {**images, **known, "text": f"text {i}", "box": box, "number": i}


@pytest.fixture
def shop(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    config = tfds.download.DownloadConfig(num_shards=3)
    builder = Shop(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_config=config, download_dir=tmp_path / "downloads")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path / "shop" / "1.0.0"


def test_columns_are_what_examples_say(shop: pathlib.Path):
    source = sources.make("tfds:shop:train")
    for name in ("kind", "text", "number"):
        assert source.column(name) == [example[name] for example in source]
    boxes = source.column("box")
    assert [box["of"] for box in boxes] == [example["box"]["of"] for example in source]
    assert sorted(box["corners"].shape for box in boxes)[-1] == (2, 4)
    assert sorted(source.column("number")) == list(range(200))
    with pytest.raises(ConfigError, match="'image' of all examples"):
        source.column("image")
    with pytest.raises(ConfigError, match="did you mean 'number'"):
        base.column(source, "numbr", "x")


def test_labels_that_are_not_known_are_none(shop: pathlib.Path):
    source = sources.make("tfds:shop:train")
    unknown = source.column("number").index(5)
    assert source[unknown]["kind"] is None is source.column("kind")[unknown]
    assert source.column("kind").count(None) == 1
    label = labels.make(open_source=lambda: source)
    assert label.feature == "kind" and label.classes == ("shoe", "hat")
    with pytest.raises(BadExample, match="no label"):
        label(source[unknown])


def test_roles_are_those_that_the_data_set_says(shop: pathlib.Path):
    """Of two images and two class labels, the pair to learn from; the caption by its name."""
    assert sources.make("tfds:shop:train").roles == {"image": "image", "label": "kind", "caption": "text"}


def test_keys_are_places_that_do_not_move(shop: pathlib.Path):
    whole = sources.make("tfds:shop:train")
    keys = list(base.keys(whole))
    assert len(set(keys)) == 200 and keys[0] == "shop-train.array_record-00000-of-00003[0]"
    assert keys == [whole.key(index) for index in range(200)] and whole.key(-1) == keys[-1]
    part = sources.make("tfds:shop:train[30:150]+test")
    assert list(base.keys(part))[:120] == keys[30:150] and part.key(120).startswith("shop-test.")
    numbers = dict(zip(keys, whole.column("number"), strict=True))
    assert all(numbers[part.key(index)] == part[index]["number"] for index in (0, 60, 119))
    assert pickle.loads(pickle.dumps(part)).key(7) == part.key(7)


def test_parts_of_the_same_keys(shop: pathlib.Path):
    first, second = (sources.make(f"tfds:shop:train#{part}") for part in (":70%", "70%:"))
    both = list(itertools.chain(base.column(first, "number", "x"), base.column(second, "number", "x")))
    assert sorted(both) == list(range(200)) and 100 < len(first) < 180


def test_a_damaged_record_is_a_bad_example(shop: pathlib.Path):
    """Its neighbours are read, in columns as well."""
    path = shop / "shop-train.array_record-00001-of-00003"
    content = bytearray(path.read_bytes())
    written = [position for position, byte in enumerate(content) if byte]  # The rest is padding.
    content[written[len(written) // 2]] ^= 0xFF
    path.write_bytes(content)
    source, errors = sources.make("tfds:shop:train"), []
    for index in range(len(source)):
        try:
            source[index]
        except BadExample as error:
            errors.append(error)
    assert 0 < len(errors) < 30 and {error.reason for error in errors} == {"corrupt"}
    assert all("shop-train.array_record-00001-of-00003[" in str(error) for error in errors)
    assert source.column("number").count(None) == len(errors)
