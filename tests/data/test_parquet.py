"""Parquet is read row by row, whatever its row groups, with the classes of Hugging Face, and refused in words."""

import io
import json
import multiprocessing
import os
import subprocess
import sys
import threading

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitfm.config import ConfigError
from vitfm.data import labels, recent, sources
from vitfm.data.bad import BadExample
from vitfm.data.sources import base, parquet

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dog", "hen"], "_type": "ClassLabel"},
    "seen": {"feature": {"names": ["leaf", "sky"], "_type": "ClassLabel"}, "_type": "List"},
    "text": {"dtype": "string", "_type": "Value"},
}


def png(number):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (number, 50, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def row(number):
    """As Hugging Face has it."""
    return {
        "image": {"bytes": png(number), "path": f"{number}.png"},
        "label": number % 3,
        "text": None if number == 7 else f"ein Bär {number}",
        "seen": [0] * (number % 3),
        "score": number / 2,
        "words": ["a", "b"][: number % 3],
        "nested": {"x": [number]},
    }


def write(path, rows, row_group_size=4, features=FEATURES, schema=None, **options):
    table = pa.Table.from_pylist(rows, schema)
    if schema is None and "image" in table.column_names:
        table = table.set_column(0, "image", pa.array([own["image"] for own in rows], STRUCT))
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two files of 10 and 5 rows."""
    write(tmp_path / "set" / "train-00000-of-00002.parquet", [row(n) for n in range(10)])
    write(tmp_path / "set" / "train-00001-of-00002.parquet", [row(n) for n in range(10, 15)], row_group_size=2)
    (tmp_path / "set" / "README.md").write_text("a card")
    return tmp_path / "set"


def eleventh(source):
    return source[11]


def test_an_example_is_a_row(folder):
    source = sources.make(f"parquet:{folder}")
    assert isinstance(source, base.Source) and len(list(source)) == len(source) == 15
    assert source.roles == {"image": "image", "caption": "text", "label": "label"}
    for n in reversed(range(15)):
        plain = {"seen": (0,) * (n % 3), "words": ("a", "b")[: n % 3], "nested": {"x": (n,)}}
        key = f"train-0000{n // 10}-of-00002.parquet[{n % 10}]"
        assert source[n] == row(n) | plain | {"image": png(n), "key": key}
        assert source.key(n) == key
    assert source[-1] == source[14] and source[np.int64(3)] == source[3]
    with pytest.raises(IndexError):
        source[15]


def test_knows_the_classes(folder):
    source = sources.make(f"parquet:{folder}")
    assert source.classes("label") == ("cat", "dog", "hen") and source.classes("seen") == ("leaf", "sky")
    assert source.classes("text") is source.classes("score") is source.classes("image") is None
    label = labels.make(feature="label", open_source=lambda: source)
    assert [int(label(own)) for own in source] == [n % 3 for n in range(15)]
    (old := dict(FEATURES))["seen"] = [{"names": ["leaf", "sky"], "_type": "ClassLabel"}]  # As it once was written.
    path = write(folder / "old.parquet", [row(0)], features=old)
    assert parquet.make(str(path)).classes("seen") == ("leaf", "sky")


def test_columns_are_read_alone(folder, monkeypatch):
    source = sources.make(f"parquet:{folder}")
    asked, real = [], parquet.Source._read
    monkeypatch.setattr(parquet.Source, "_read", lambda self, *given: asked.append(given) or real(self, *given))
    assert source.column("text") == [row(n)["text"] for n in range(15)]
    assert source.column("words") == [tuple(row(n)["words"]) for n in range(15)]
    assert [columns for _, _, columns in asked] == [["text"]] * 2 + [["words"]] * 2
    assert base.column(source, "label", "x") == [n % 3 for n in range(15)]
    assert list(source.column("key")) == list(source.keys()) == [source.key(n) for n in range(15)]
    with pytest.raises(ConfigError, match="'image' of all examples is no column"):
        source.column("image")


def test_same_bytes_in_a_process_of_its_own(folder):
    source = sources.make(f"parquet:{folder}")
    source[3]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(eleventh, (source,)) == source[11]
    code = f"from vitfm.data import sources; print(repr(sources.make('parquet:{folder}')[11]))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert eval(out) == source[11]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=4).filter(lambda s: sum(map(sum, s)))
)
def test_any_row_groups(sizes, tmp_path_factory):
    """Files and row groups of any size, none included."""
    folder, number = tmp_path_factory.mktemp("groups"), 0
    schema = pa.schema([("image", pa.binary()), ("n", pa.int32())])
    for file, groups in enumerate(sizes):
        with pq.ParquetWriter(folder / f"{file}.parquet", schema) as writer:
            for size in groups:
                rows = [{"image": b"%d" % n, "n": n} for n in range(number, number + size)]
                writer.write_table(pa.Table.from_pylist(rows, schema))
                number += size
    source = parquet.make(str(folder))
    assert [own["n"] for own in source] == source.column("n") == list(range(number))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_types_of_other_writers(tmp_path, kind):
    """Images that are plain bytes or paths, texts by a dictionary."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(png(1))
    paths = pa.types.is_string(kind)
    schema = pa.schema(
        [("img" if not paths else "file_name", kind if not pa.types.is_dictionary(kind) else pa.binary())]
    )
    schema = schema.append(pa.field("caption", kind if pa.types.is_dictionary(kind) else pa.large_string()))
    rows = [{schema.names[0]: "images/1.png" if paths else png(1), "caption": "a"}, {schema.names[0]: None}]
    source = parquet.make(str(write(tmp_path / "a.parquet", rows, features=None, schema=schema)))
    assert source.roles == {"image": schema.names[0], "caption": "caption"}
    assert source[0] == {schema.names[0]: png(1), "caption": "a", "key": "a.parquet[0]"}
    with pytest.raises(BadExample, match=rf"a.parquet\[1\] has no '{schema.names[0]}'") as error:
        source[1]
    assert error.value.reason == "missing"


def test_paths_where_there_are_no_bytes(tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "1.png").write_bytes(png(1))
    structs = [
        {"bytes": None, "path": "images/1.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": None, "path": None},
    ]
    rows = [{"image": own, "mask": {"bytes": b"mask", "path": None}} for own in [*structs, None]]
    features = {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}
    source = parquet.make(str(write(tmp_path / "set" / "a.parquet", rows, features=features)))
    assert source[0] == {"image": png(1), "mask": b"mask", "key": "a.parquet[0]"}
    for index in (1, 2, 3):
        with pytest.raises(BadExample) as error:
            source[index]
        assert error.value.reason == "missing"


def test_columns_by_name(tmp_path):
    rows = [{"left": b"l", "right": b"r", "alt": "alt", "n": 1, "text": "text", "kind": 2}]
    path = write(tmp_path / "part?.parquet", rows, features=None)
    with pytest.raises(ConfigError, match=r"which column has the images\? Say '\?image=COLUMN', one of left \(binary"):
        parquet.make(str(path))
    source = parquet.make(f"{path}?image=right&caption=alt&label=kind")
    assert source.roles == {"image": "right", "caption": "alt", "label": "kind"} and source[0]["left"] == b"l"
    source = parquet.make(f"{path}?image=right&caption=alt&columns=n")
    assert source[0] == {"n": 1, "right": b"r", "alt": "alt", "key": "part?.parquet[0]"}
    for options, words in [
        ("image=rihgt", "no column 'rihgt': did you mean 'right'"),
        ("image=n", r"'n' has neither bytes of images nor paths"),
        ("image=right&columns=n,x", "no column 'x'"),
        ("imag=right", r"Unknown key config.data.source.imag: did you mean 'image'"),
    ]:
        with pytest.raises(ConfigError, match=words):
            parquet.make(f"{path}?{options}")


@pytest.mark.parametrize("damage", ["empty", "cut", "html", "footer"])
def test_damaged_files_are_refused(folder, damage):
    path = folder / "train-00001-of-00002.parquet"
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[:-50], "html": b"<html>" * 50, "footer": data[:-8] + bytes(8)}[damage])
    with pytest.raises(ConfigError, match=r"train-00001-of-00002\.parquet' is no whole Parquet file"):
        sources.make(f"parquet:{folder}")


def test_a_damaged_row_group_is_bad_and_others_are_not(tmp_path):
    path = write(tmp_path / "a.parquet", [row(n) for n in range(12)], write_page_checksum=True)
    group = pq.ParquetFile(path).metadata.row_group(1)
    column = group.column(0)
    data = bytearray(path.read_bytes())
    data[(column.dictionary_page_offset or column.data_page_offset) + 40] ^= 0xFF
    path.write_bytes(data)
    source = parquet.make(str(path))
    for n in range(12):
        if 4 <= n < 8:
            with pytest.raises(BadExample, match=r"a.parquet, row group 1") as error:
                source[n]
            assert error.value.reason == "corrupt"
        else:
            assert source[n]["image"] == png(n)
    assert source.column("score") == [n / 2 for n in range(12)]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_is_bad_or_refused(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    path = write(folder / "a.parquet", [row(n) for n in range(6)], write_page_checksum=True)
    damaged = bytearray(path.read_bytes())
    # The footer has no checksum, so that a flip in it may change a row's meaning; what it says must not crash.
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=3)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        source = parquet.make(str(path))
        _ = [source[n] for n in range(len(source))]
    except (ConfigError, BadExample):
        pass


def test_a_text_that_is_no_utf8(tmp_path):
    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"image": pa.array([b"1", b"2"]), "text": texts}), tmp_path / "a.parquet")
    source = parquet.make(str(tmp_path / "a.parquet"))
    assert source[0] == {"image": b"1", "text": "ok", "key": "a.parquet[0]"}
    with pytest.raises(BadExample, match=r"a.parquet\[1\] has a text that is no UTF-8"):
        source[1]
    assert source.column("text") == [None, None]


def test_a_file_that_goes_is_missing(folder):
    source = sources.make(f"parquet:{folder}")
    os.remove(folder / "train-00001-of-00002.parquet")
    assert source[0]["label"] == 0
    with pytest.raises(BadExample) as error:
        source[11]
    assert error.value.reason == "missing"
    assert source.column("label") == [n % 3 for n in range(10)] + [None] * 5


def test_files_must_have_the_same_columns(folder):
    write(folder / "train-x.parquet", [{"image": {"bytes": b"", "path": ""}, "label": 1}], features=None)
    with pytest.raises(ConfigError, match=r"train-x\.parquet' has no column 'text'"):
        sources.make(f"parquet:{folder}")
    assert len(sources.make(f"parquet:{folder}?columns=image,label")) == 16


def test_splits_are_not_mixed_unawares(folder):
    write(folder / "test-00000-of-00001.parquet", [row(0)])
    for pattern in ("", "/*.parquet"):
        with pytest.raises(
            ConfigError, match=r"holds test and train: name the files of one of them, such as '\*train\*"
        ):
            sources.make(f"parquet:{folder}{pattern}")
    assert len(sources.make(f"parquet:{folder}/train-*.parquet")) == 15
    names = f"{folder}/{{train-00000-of-00002,test-00000-of-00001}}.parquet"
    assert len(sources.make(f"parquet:{names}")) == 11


@pytest.mark.parametrize("content", [None, "rows"])
def test_nothing_there(tmp_path, content):
    if content:
        write(tmp_path / "a.parquet", [], schema=pa.schema([("image", pa.binary())]), features=None)
    with pytest.raises(ConfigError, match="has no rows" if content else "There is no file"):
        parquet.make(str(tmp_path / "*.parquet"))


def test_without_pyarrow(folder, monkeypatch):
    monkeypatch.setattr(parquet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'vitfm\[parquet\]'"):
        sources.make(f"parquet:{folder}")


def test_remote_files_and_parts(folder):
    system = fsspec.filesystem("memory")
    for path in folder.glob("*.parquet"):
        system.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    try:
        here, there = sources.make(f"parquet:{folder}"), sources.make("parquet:memory://bucket/*.parquet")
        assert [there[n] for n in range(15)] == [here[n] for n in range(15)]
        assert there.column("text") == here.column("text")
        cats, others = (sources.make(f"parquet:memory://bucket/*.parquet#{part}&by=label") for part in (":60%", "60%:"))
        assert not {own["label"] for own in cats} & {own["label"] for own in others}
        assert len(cats) + len(others) == 15
        again = sources.make("parquet:memory://bucket/*.parquet")
        system.rm("/bucket/train-00001-of-00002.parquet")
        with pytest.raises(BadExample) as error:
            again[11]
        assert error.value.reason == "missing" and again[0] == here[0]
    finally:
        system.rm("/bucket", recursive=True)


def test_warns_of_large_row_groups(folder, monkeypatch, caplog):
    sources.make(f"parquet:{folder}")
    monkeypatch.setattr(parquet, "_LARGE", 1)
    sources.make(f"parquet:{folder}")
    assert not caplog.records  # All of it is kept in memory.
    monkeypatch.setattr(parquet, "_KEPT", 1)
    sources.make(f"parquet:{folder}")
    (message,) = [record.getMessage() for record in caplog.records]
    assert "row groups have 0 MB" in message and "prepare" in message


def test_row_groups_are_kept_as_far_as_they_fit(folder, monkeypatch):
    source, read, real = sources.make(f"parquet:{folder}"), [], parquet.Source._read
    monkeypatch.setattr(parquet.Source, "_read", lambda self, *given: read.append(given) or real(self, *given))
    for _ in range(2):
        for n in range(15):
            source[n]
    assert len(read) == 3 + 3
    source._groups = recent.Recent(1)
    for n in (0, 1, 5, 0):
        source[n]
    assert [group for _, group in read[6:]] == [0, 1, 0]


class Value:
    def __init__(self, nbytes):
        self.nbytes = nbytes


def test_recent_makes_a_value_once_for_all_threads():
    kept, made, gate = recent.Recent(100), [], threading.Barrier(8)

    def ask(results):
        gate.wait()
        results.append(kept.get("a", lambda: made.append(1) or Value(10)))

    results = []
    threads = [threading.Thread(target=ask, args=(results,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(set(map(id, results))) == 1


def test_recent_forgets_the_oldest_and_what_failed():
    kept, made = recent.Recent(100), []
    ask = lambda key, nbytes=40: kept.get(key, lambda: made.append(key) or Value(nbytes))
    for key in "abacbaa":
        ask(key)
    assert made == list("abcba")[:5] or made == list("abcba")
    made.clear()
    ask("large", 1000)
    ask("large")
    assert made == ["large"]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            kept.get("fails", lambda: made.append("fails") or 1 / 0)
    assert made == ["large", "fails", "fails"]
