"""Sources open by name, read like sequences, travel to other processes, and refuse in words."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vitfm.config import ConfigError
from vitfm.data import labels, sources
from vitfm.data.sources import base


class Toy(tfds.core.GeneratorBasedBuilder):
    """A data set of the kind a user prepares: a label, a number, bytes that are no text."""

    VERSION = tfds.core.Version("1.2.3")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "weight": np.float32,
            "words": tfds.features.Sequence(tfds.features.Text()),
            "seen": tfds.features.Sequence(tfds.features.ClassLabel(names=["leaf", "sky", "sea"])),
            "blob": tfds.features.Tensor(shape=(), dtype=np.object_),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(10), "test": self._generate_examples(4)}

    def _generate_examples(self, n):
        for i in range(n):
            texts = {"words": ["a"] * i, "seen": ["sky"] * (i % 2), "blob": b"\xff"}
            yield i, {"image": b"\xff\xd8%d" % i, "label": i % 2, "weight": i / 2, **texts}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Toy(data_dir=folder, file_format="array_record").download_and_prepare(download_dir=folder / "downloads")
    return folder


@pytest.fixture
def toy(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    return prepared


def read_first(source):
    return source[0]


def test_embedded_set_opens_without_tensorflow_and_without_tfds_until_asked():
    code = (
        "import sys; from vitfm.data import sources; import vitfm.data.sources.tfds\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "assert sources.make('tfds:emoji')[0]['image'][:4] == b'RIFF'\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_example_has_plain_types():
    example = sources.make("tfds:emoji:validation")[7]
    assert type(example["image"]) is bytes
    assert all(type(example[key]) is str for key in ("name", "codepoint", "style", "group", "subgroup"))
    assert type(example["tags"]) is tuple and all(type(tag) is str for tag in example["tags"])


def test_follows_the_protocol():
    source = sources.make("tfds:emoji:validation")
    assert isinstance(source, base.Source)
    assert source.name == "emoji:validation"
    assert len(list(source)) == len(source) == 315
    assert source[-1] == source[314] and source[np.int64(3)] == source[3]
    with pytest.raises(IndexError):
        source[315]


@pytest.mark.parametrize(
    ("spec", "length"),
    [("emoji", 5980), ("emoji:train[:10%]", 598), ("emoji:train[5:7]", 2), ("emoji:validation+test_concept", 1211)]
    + [("emoji:1.0.0", 5980), ("emoji:1.*.*:validation", 315), ("emoji:all", 8906)],
)
def test_splits_and_slices(spec, length):
    assert len(sources.make(f"tfds:{spec}")) == length


def test_slice_is_a_part_of_the_whole():
    whole, part = sources.make("tfds:emoji:train"), sources.make("tfds:emoji:train[100:103]")
    assert [part[i] for i in range(3)] == [whole[i] for i in range(100, 103)]


def test_travels_to_a_spawned_process():
    source = sources.make("tfds:emoji:train[50:60]")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_first, (source,)) == source[0]


def test_reads_a_data_set_of_the_user(toy):
    source = sources.make("tfds:toy:test")
    examples = sorted((source[i] for i in range(4)), key=lambda e: e["weight"])
    assert [e["image"] for e in examples] == [b"\xff\xd8%d" % i for i in range(4)]
    assert [int(e["label"]) for e in examples] == [0, 1, 0, 1]
    assert examples[3]["weight"] == np.float32(1.5) and examples[3]["words"] == ("a", "a", "a")
    assert examples[0]["words"] == () and examples[0]["blob"] == b"\xff"


def test_knows_its_class_labels(toy):
    source = sources.make("tfds:toy:train")
    assert source.classes("label") == ("cat", "dog")
    assert source.classes("seen") == ("leaf", "sky", "sea")
    assert source.classes("weight") is source.classes("words") is None
    assert source.roles == {"image": "image", "label": "label"}  # Of two class labels the one with that name.
    assert labels.make(open_source=lambda: source).classes == ("cat", "dog")
    assert sources.make("tfds:emoji").roles == {"image": "image"}
    seen = labels.make(feature="seen", open_source=lambda: source)
    assert seen.multi_label and seen.classes == ("leaf", "sky", "sea")
    expected = [[0, int(example["label"]), 0] for example in source]
    np.testing.assert_array_equal([seen(example) for example in source], expected)


def test_scheme_may_be_a_module_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_sources").mkdir()
    (tmp_path / "my_sources" / "squares.py").write_text(
        "def make(rest):\n    return [{'x': i * i} for i in range(int(rest))]"
    )
    (tmp_path / "my_sources" / "empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert sources.make("my_sources.squares:4")[3] == {"x": 9}
    with pytest.raises(ConfigError, match="my_sources.empty.*no function `make"):
        sources.make("my_sources.empty:4")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("emoji", ["lacks its scheme", "tfds:emoji:train"]),
        ("s3://bucket/x", ["lacks its scheme", "'folder:s3://bucket/x'", "'webdataset:'"]),
        ("tdfs:emoji", ["'tdfs'", "did you mean 'tfds'"]),
        ("tfds:", ["tfds:NAME[:SPLIT]"]),
        ("tfds:emoji:trian", ["'trian'", "did you mean 'train'", "test_concept"]),
        ("tfds:emoji:train[:9x%]", ["'train[:9x%]'", "Unrecognized split format"]),
        ("tfds:emoji:train[:0%]", ["'train[:0%]'"]),
        ("tfds:emoji:2.0.0:train", ["'emoji:2.0.0'"]),
        ("tfds:tyo:train", ["'tyo'", "did you mean 'toy'", "TFDS_DATA_DIR", "array_record", "download_and_prepare"]),
    ],
)
def test_refuses_in_words(spec, words, toy):
    with pytest.raises(ConfigError) as error:
        sources.make(spec)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_says_where_it_looked(toy):
    with pytest.raises(ConfigError, match=str(toy)):
        sources.make("tfds:imagenet2012")


def test_tfrecord_is_refused_with_the_way_out(toy, tmp_path, monkeypatch):
    target = tmp_path / "toy" / "1.2.3"
    target.mkdir(parents=True)
    for file in (toy / "toy" / "1.2.3").glob("*.json"):
        (target / file.name).write_text(file.read_text().replace("array_record", "tfrecord"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="as tfrecord(.|\n)*array_record(.|\n)*convert_format") as error:
        sources.make("tfds:toy")
    assert str(target) in str(error.value)
