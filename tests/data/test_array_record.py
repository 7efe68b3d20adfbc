"""ArrayRecord files of images or of tf.train.Examples are read without TensorFlow, and refused in words."""

import io
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from vitfm.config import ConfigError
from vitfm.data import sources
from vitfm.data.bad import BadExample
from vitfm.data.sources import array_record, base


def jpeg(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number * 7 % 256, 50, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def example(**features):
    """Serialized; a list of bytes, of floats or of integers a feature."""
    message = tf_example_pb2.Example()
    for name, values in features.items():
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0]) if values else bytes]
        getattr(message.features.feature[name.replace("__", "/")], kind).value.extend(values)
    return message.SerializeToString()


def write(path, records, options="group_size:1"):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


def row(number):
    words = [b"a", "ä".encode()][: number % 3]
    features = {"image": [jpeg(number)], "caption": [b"cat %d" % number], "label": [number % 3], "words": words}
    return example(**features, score=[number / 2], box=[0.5, 1.5], ids=[number, -number], blob=[b"\xff\x00"])


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "set" / "a.array_record-00000-of-00002", map(row, range(10)))
    write(tmp_path / "set" / "a.array_record-00001-of-00002", map(row, range(10, 15)))
    (tmp_path / "set" / "notes.txt").write_text("not mine")
    return tmp_path / "set"


def eleventh(source):
    return source[11]["image"], source[11]["caption"]


@pytest.mark.parametrize("pattern", ["", "/a.array_record*", "/a.array_record-{00000..00001}-of-00002"])
def test_examples_of_tensorflow(folder, pattern):
    source = sources.make(f"array_record:{folder}{pattern}")
    assert isinstance(source, base.Source) and len(list(source)) == len(source) == 15
    assert source.roles == {"image": "image", "label": "label", "caption": "caption"}
    for n in reversed(range(15)):
        own = source[n]
        assert own["image"] == jpeg(n) and own["caption"] == f"cat {n}" and own["blob"] == b"\xff\x00"
        assert own["key"] == source.key(n) == f"a.array_record-0000{n // 10}-of-00002[{n % 10}]"
        assert own["words"] == [None, "a", ("a", "ä")][n % 3]
        assert own["label"] == n % 3 and own["label"].dtype == np.int64
        assert own["score"] == n / 2 and own["score"].dtype == np.float32
        np.testing.assert_array_equal(own["box"], np.array([0.5, 1.5], np.float32))
        np.testing.assert_array_equal(own["ids"], [n, -n])
    assert source[-1]["key"] == source[14]["key"]
    with pytest.raises(IndexError):
        source[15]


def test_images_alone(tmp_path):
    source = array_record.make(str(write(tmp_path / "x.array_record", map(jpeg, range(5)))))
    assert list(source) == [{"image": jpeg(n), "key": f"x.array_record[{n}]"} for n in range(5)]
    assert source.roles == {"image": "image"}


def test_names_of_older_converters(tmp_path):
    record = example(image__encoded=[jpeg(1)], image__class__label=[3], image__filename=[b"n01.JPEG"])
    source = array_record.make(str(write(tmp_path / "x.array_record", [record])))
    assert source.roles == {"image": "image/encoded", "label": "image/class/label"}
    assert source[0]["image/filename"] == "n01.JPEG"
    other = example(photo=[jpeg(1)], image=[b"a path"], text=[b"words"])
    source = array_record.make(str(write(tmp_path / "y.array_record", [example(text=[b"no image"]), other])))
    assert source.roles == {"image": "photo", "caption": "text"}


def test_columns_and_parts(folder):
    source = sources.make(f"array_record:{folder}")
    assert base.column(source, "caption", "x") == [f"cat {n}" for n in range(15)]
    assert source.column("label") == [n % 3 for n in range(15)]
    assert list(source.column("key")) == list(source.keys()) == [source.key(n) for n in range(15)]
    with pytest.raises(ConfigError, match="'image' of all examples is no column"):
        source.column("image")
    part, rest = (sources.make(f"array_record:{folder}#{part}") for part in (":60%", "60%:"))
    assert sorted(own["key"] for source in (part, rest) for own in source) == list(source.keys())


def test_same_bytes_in_a_process_of_its_own_without_tensorflow(folder):
    source = sources.make(f"array_record:{folder}")
    source[3]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(eleventh, (source,)) == eleventh(source)
    code = (
        f"from vitfm.data import sources; import sys\nown = sources.make('array_record:{folder}')[11]\n"
        "assert 'tensorflow' not in sys.modules\nprint(repr((own['image'], own['caption'])))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert eval(out) == eleventh(source)


@settings(max_examples=100, deadline=None)
@given(
    features=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.lists(st.text().filter(lambda text: "\0" not in text), max_size=3)
        | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
        | st.lists(st.floats(width=32, allow_nan=False), max_size=3),
        max_size=5,
    )
)
def test_features_come_back(features):
    message = tf_example_pb2.Example()
    for name, values in features.items():
        kind = {str: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0]) if values else str]
        own = [value.encode() if isinstance(value, str) else value for value in values]
        getattr(message.features.feature[name], kind).value.extend(own)
    found = array_record._parsed(message.SerializeToString() or b"\n\0", "")
    assert found.keys() == features.keys()
    for name, values in features.items():
        if len(values) < 2:
            assert found[name] == (values[0] if values else None)
        else:
            assert list(found[name]) == values


def test_bad_records(tmp_path):
    records = [row(0), b"", b"\n\xff\xff", example(caption=[b"alone"]), b"<html>"]
    source = array_record.make(str(write(tmp_path / "x.array_record", records)))
    for index, (reason, words) in enumerate(
        [("empty", "0 bytes"), ("corrupt", "no tf.train.Example"), ("missing", "no 'image', only caption")], start=1
    ):
        with pytest.raises(BadExample, match=rf"x.array_record\[{index}\].*{words}") as error:
            source[index]
        assert error.value.reason == reason
    assert source[4]["image"] == b"<html>"  # For whoever decodes it to say what it is.
    assert source.column("caption") == ["cat 0", None, None, "alone", None]


def test_damage_within_is_bad_and_not_around(tmp_path):
    images = [jpeg(n) * 3 for n in range(20)]  # In one block of the file.
    path = write(tmp_path / "x.array_record", images, "group_size:1,uncompressed")
    data = bytearray(path.read_bytes())
    data[data.index(images[10]) + 500] ^= 0xFF
    path.write_bytes(data)
    source = array_record.make(str(path))
    for n in range(20):
        if n == 10:
            with pytest.raises(BadExample, match=r"x.array_record\[10\] can't be read: .*hash mismatch") as error:
                source[n]
            assert error.value.reason == "corrupt"
        else:
            assert source[n]["image"] == images[n]


@pytest.mark.parametrize("damage", ["empty", "cut", "html", "end"])
def test_damaged_files_are_refused(folder, damage):
    path = folder / "a.array_record-00001-of-00002"
    data = path.read_bytes()
    end = data[:-65536] + bytes(65536)
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "html": b"<html>" * 20000, "end": end}[damage])
    with pytest.raises(ConfigError, match=r"a\.array_record-00001-of-00002' is no whole ArrayRecord file: "):
        sources.make(f"array_record:{folder}")


def test_refuses_in_words(tmp_path):
    with pytest.raises(ConfigError, match="There is no file"):
        array_record.make(str(tmp_path / "*.array_record"))
    write(tmp_path / "none.array_record", [])
    with pytest.raises(ConfigError, match="has no records"):
        array_record.make(str(tmp_path / "none.array_record"))
    write(tmp_path / "other.array_record", [example(x=[1], y=[b"text"])] * 3)
    with pytest.raises(ConfigError, match=r"no encoded image, but x \(int64, .*y \(str, 'text'\)"):
        array_record.make(str(tmp_path / "other.array_record"))
    write(tmp_path / "msgpack.array_record", [b"\x81\xa1a\x01"] * 3)
    with pytest.raises(ConfigError, match="no encoded image"):
        array_record.make(str(tmp_path / "msgpack.array_record"))


def test_what_tfds_prepared_is_read_by_tfds(folder):
    (folder / "dataset_info.json").write_text("{}")
    for pattern in ("", "/a.array_record*"):
        with pytest.raises(ConfigError, match="prepared by TFDS.*tfds:NAME:SPLIT"):
            sources.make(f"array_record:{folder}{pattern}")


def test_remote_files_are_refused():
    import fsspec

    fsspec.filesystem("memory").pipe_file("/bucket/x.array_record", b"")
    with pytest.raises(ConfigError, match="local disks only"):
        array_record.make("memory://bucket/x.array_record")
