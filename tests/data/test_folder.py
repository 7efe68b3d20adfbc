"""Any folder: classes of folders, texts and objects beside images, tables of metadata, and what is no image."""

from __future__ import annotations

import io
import json
import os
import pathlib
import pickle
import shutil
from collections.abc import Mapping
from typing import Any

import fsspec
import numpy as np
import PIL.Image
import pydicom.data
import pytest
import tifffile

from vitfm.config import ConfigError
from vitfm.data import formats, labels, sources
from vitfm.data.__main__ import main
from vitfm.data.bad import BadExample
from vitfm.data.sources import base, folder
from vitfm.metrics import files as run_files

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "ppm": "PPM", "jp2": "JPEG2000"}


def image(value: int = 0, suffix: str = "png") -> bytes:
    """A small image of one colour, by its own library."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 3), (value, 0, 0)).save(file, FORMATS[suffix])
    return file.getvalue()


def written(root: pathlib.Path, contents: Mapping[str, bytes | str | Any]) -> str:
    """A folder with these files: bytes, texts, or objects as JSON."""
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(root)


def opened(root: pathlib.Path, contents: Mapping[str, bytes | str | Any]) -> base.Source:
    return sources.make(f"folder:{written(root, contents)}")


def without_image(source: base.Source) -> list[dict[str, Any]]:
    return [{name: value for name, value in example.items() if name != "image"} for example in source]


def test_images_in_folders_have_the_first_ones_class(tmp_path: pathlib.Path):
    contents = {"dog/1.png": image(1), "cat/old/2.png": image(2), "cat/1.PNG": image(3), "cow/Thumbs.db": b"no cow"}
    source = opened(tmp_path, contents)
    assert isinstance(source, base.Source) and source.name == str(tmp_path) and len(source) == 3
    assert without_image(source) == [
        {"label": "cat", "key": "cat/1.PNG"},
        {"label": "cat", "key": "cat/old/2.png"},
        {"label": "dog", "key": "dog/1.png"},
    ]
    assert [example["image"] for example in source] == [contents[source.key(i)] for i in range(3)]
    assert source.roles == {"image": "image", "label": "label"}
    assert source.classes("label") == ("cat", "dog") and source.classes("key") is None
    assert list(source.column("label")) == ["cat", "cat", "dog"]
    assert source.key(-1) == "dog/1.png" and source[-1] == source[2]
    with pytest.raises(IndexError):
        source[3]
    ours = labels.make(open_source=lambda: source)
    assert ours.classes == ("cat", "dog") and ours(source[2]) == 1


def test_images_in_the_folder_itself_have_no_class(tmp_path: pathlib.Path):
    source = opened(tmp_path, {"1.png": image(), "more/2.png": image(), "notes.txt": "none of them"})
    assert without_image(source) == [{"key": "1.png"}, {"key": "more/2.png"}]
    assert source.roles == {"image": "image"} and source.classes("label") is None
    with pytest.raises(
        ConfigError, match=r"config\.data\.label: .* does not say which feature is its label.*image, key"
    ):
        labels.make(open_source=lambda: source)


def test_every_format_is_found_by_its_suffix(tmp_path: pathlib.Path):
    contents = {f"1.{suffix}": image(suffix=suffix) for suffix in FORMATS}
    tifffile.imwrite(tmp_path / "1.tif", np.zeros((4, 3), np.uint16))
    shutil.copy(pydicom.data.get_testdata_file("CT_small.dcm"), tmp_path / "1.dcm")
    source = opened(tmp_path, contents)
    assert sorted(source.keys()) == sorted([*contents, "1.tif", "1.dcm"])
    kinds = {"jpg": "jpeg", "tif": "tiff", "dcm": "dicom", "ppm": "pnm"}
    for example in source:
        suffix = example["key"].removeprefix("1.")
        assert formats.kind(example["image"]) == kinds.get(suffix, suffix)
    assert {".jpeg", ".avif", ".tiff", ".dicom"} <= folder.SUFFIXES


def test_texts_beside_images_are_captions(tmp_path: pathlib.Path):
    contents = {"1.png": image(), "1.txt": " a red apple\n", "2.png": image(), "3.png": image(), "3.txt": "\ufeffä"}
    source = opened(tmp_path, {**contents, "other.txt": "of no image", "4.png": image(), "4.txt": "\n"})
    assert source.roles["caption"] == "caption"
    assert [example["caption"] for example in source] == ["a red apple", None, "ä", None]
    assert list(source.column("caption")) == ["a red apple", None, "ä", None]


def test_texts_and_objects_end_in_any_case(tmp_path: pathlib.Path):
    contents = {"1.JPG": image(suffix="jpg"), "1.TXT": "a red apple", "2.JPG": image(suffix="jpg"), "2.txt": "a pear"}
    contents |= {"3.JPG": image(suffix="jpg"), "3.Json": {"caption": "a plum"}, "4.jpg": image(suffix="jpg")}
    source = opened(tmp_path, contents)
    assert [example["caption"] for example in source] == ["a red apple", "a pear", "a plum", None]
    assert list(source.column("caption")) == ["a red apple", "a pear", "a plum", None]


def test_a_table_without_rows_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(ConfigError, match=r"metadata\.csv' has no rows"):
        opened(tmp_path, {"1.png": image(), "metadata.csv": "file_name,text\n"})


def test_names_that_are_no_utf8(tmp_path: pathlib.Path, capsysbinary: pytest.CaptureFixture[bytes]):
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(odd)
    except OSError:
        pytest.skip("this file system has no such names")
    for name in (b"1.png", b"2.png", b"\xe9.png"):
        with open(odd + b"/" + name, "wb") as file:
            file.write(b"<html>" if name == b"\xe9.png" else image())
    source = opened(tmp_path, {"tea/1.png": image()})
    assert source.classes("label") == (r"caf\udce9", "tea") and source[0]["label"] == r"caf\udce9"
    assert source.column("label") == [r"caf\udce9"] * 3 + ["tea"] and source.key(0) == "caf\udce9/1.png"
    ours = labels.make(open_source=lambda: source)
    assert ours(source[3]) == 1
    stored = {"classes": ours.classes, "source": f"folder:{os.fsdecode(odd)}"}
    assert json.loads(run_files.dumps(stored)) == run_files.plain(stored)
    assert (
        main(["stats", f"folder:{tmp_path}"]) == 0 and b"bad, format (1): caf\\udce9/" in capsysbinary.readouterr().out
    )
    assert main(["prepare", f"folder:{tmp_path}", f"{tmp_path}/out", "--name=odd", "--workers=0", "--max-bad=1"]) == 0


def test_no_name_is_a_home_directory(tmp_path: pathlib.Path):
    contents = {"~1.png": image(1), "~1.txt": "first", "~/2.png": image(2), "~/metadata.csv": "file_name,n\n2.png,7\n"}
    source = opened(tmp_path, contents)
    assert {example["key"]: (example["image"], example["caption"], example["n"]) for example in source} == {
        "~1.png": (image(1), "first", None),
        "~/2.png": (image(2), None, 7),
    }


def test_images_that_nothing_reads_are_told_once(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture):
    contents = {"1.png": image(), "2.HEIC": b"x", "3.heic": b"x", "4.jxl": b"x", "5.nef": b"x", "6.mp4": b"x"}
    for _ in range(2):
        assert len(opened(tmp_path, contents)) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert "2 .heic, 1 .jxl, 1 .nef files are left out" in message and "Convert them" in message


def test_objects_beside_images_are_captions_and_features(tmp_path: pathlib.Path):
    """As img2dataset writes them, in shards that are folders."""
    first = {"caption": "a pear", "key": "000", "width": 512, "clip": 0.5, "tags": ["a", ["b"]], "exif": None}
    contents = {"00000/000.jpg": image(suffix="jpg"), "00000/000.json": first, "00000/000.txt": "a ripe pear"}
    contents |= {"00000/001.jpg": image(suffix="jpg"), "00000/001.json": {"caption": "a plum", "new": 1}}
    contents |= {"00001/002.jpg": image(suffix="jpg"), "annotations.json": {"caption": "of no image"}}
    source = opened(tmp_path, contents)
    features = {"width": 512, "clip": 0.5, "tags": ("a", ("b",)), "exif": None}
    nothing = dict.fromkeys(features)
    assert [{n: v for n, v in e.items() if n != "new"} for e in without_image(source)] == [
        {"label": "00000", "key": "00000/000.jpg", "caption": "a ripe pear", **features},
        {"label": "00000", "key": "00000/001.jpg", "caption": "a plum", **nothing},
        {"label": "00001", "key": "00001/002.jpg", "caption": None, **nothing},
    ]
    assert source.column("new") == [None, 1, None]
    assert source.column("width") == [512, None, None]


def test_text_is_a_caption_where_there_is_no_caption(tmp_path: pathlib.Path):
    contents = {"1.png": image(), "1.json": {"text": "a pear", "label": "fruit"}, "2.png": image()}
    source = opened(tmp_path, {**contents, "2.json": {"text": ["a plum", "plums"]}})
    assert without_image(source) == [
        {"caption": "a pear", "label": "fruit", "key": "1.png"},
        {"caption": ("a plum", "plums"), "label": None, "key": "2.png"},
    ]
    assert source.roles == {"image": "image", "label": "label", "caption": "caption"}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_is_that_of_hugging_face(tmp_path: pathlib.Path, name: str):
    rows = [{"file_name": "b/2.png", "text": "two, or so", "age": 3}, {"file_name": "1.png", "text": "one", "age": 40}]
    if name.endswith("csv"):
        text = 'file_name,text,age\nb/2.png,"two, or so",3\n./1.png,one,40\nfar/away.png,none,\n'
    else:
        text = "\n".join(map(json.dumps, rows))
    source = opened(tmp_path, {"1.png": image(), "b/2.png": image(), "b/3.png": image(), name: text})
    assert without_image(source) == [
        {"key": "1.png", "text": "one", "age": 40},
        {"key": "b/2.png", "text": "two, or so", "age": 3},
        {"key": "b/3.png", "text": None, "age": None},
    ]
    assert source.column("age") == [40, 3, None] and source.column("text") == ["one", "two, or so", None]
    assert source.roles == {"image": "image", "caption": "text"}


def test_tables_in_folders_are_of_these(tmp_path: pathlib.Path):
    contents = {"a/1.png": image(), "b/1.png": image(), "a/metadata.csv": "file_name,label\n1.png,7\n"}
    contents |= {"b/metadata.jsonl": '{"file_name": "1.png", "caption": "b", "label": 8}', "c/1.png": image()}
    source = opened(tmp_path, {**contents, "c/metadata.csv": "of,something\nelse,altogether"})
    assert without_image(source) == [
        {"key": "a/1.png", "label": 7, "caption": None},
        {"key": "b/1.png", "label": 8, "caption": "b"},
        {"key": "c/1.png", "label": None, "caption": None},
    ]
    assert source.classes("label") is None  # The column takes the place of the folders.
    assert source.column("label") == [7, 8, None] and source.column("caption") == [None, "b", None]
    ours = labels.make(open_source=lambda: source)
    assert ours(source[0]) == 7 and len(ours.classes) == 9
    with pytest.raises(BadExample, match="no label") as error:
        ours(source[2])
    assert error.value.reason == "other"


def test_a_table_that_names_no_image_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(ConfigError, match=r"metadata.csv': there is no image of those .* such as 'images/1.png'"):
        opened(tmp_path, {"1.png": image(), "metadata.csv": "file_name,text\nimages/1.png,one\n"})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("1.txt", b"\xff\xfe", "caption"), ("1.json", b"{", "corrupt"), ("1.json", b"[1]", "corrupt")],
)
def test_what_is_broken_beside_an_image_breaks_it_alone(tmp_path: pathlib.Path, name: str, content: bytes, reason: str):
    others = {f"{i}.{kind}": value for i in (2, 3) for kind, value in (("png", image()), ("json", {"text": "well"}))}
    source = opened(tmp_path, {"1.png": image(), name: content, **others})
    with pytest.raises(BadExample, match=name) as error:
        source[0]
    assert error.value.reason == reason
    assert [source[1]["caption"], source[2]["caption"]] == ["well", "well"]
    assert source.column("caption") == [None, "well", "well"]
    assert base.column(source, "caption", "data.captions.name") == [None, "well", "well"]
    assert base.first(source)["key"] == "2.png"


def test_an_image_that_vanished_is_missed(tmp_path: pathlib.Path):
    source = opened(tmp_path, {"1.png": image(), "2.png": image()})
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadExample, match="1.png") as error:
        source[0]
    assert error.value.reason == "missing" and source[1]["key"] == "2.png"


def test_workers_see_what_was_listed(tmp_path: pathlib.Path):
    contents = {
        "a/1.png": image(1),
        "b/2.png": image(2),
        "b/2.txt": "two",
        "metadata.csv": "file_name,age\na/1.png,4\n",
    }
    source = opened(tmp_path, contents)
    sent = pickle.dumps(source)
    written(tmp_path, {"a/0.png": image(3)})
    assert list(pickle.loads(sent)) == list(source) and len(source) == 2
    assert len(sources.make(f"folder:{tmp_path}")) == 3


def test_a_million_paths_are_small(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    many = 20_000
    monkeypatch.setattr(folder.files, "below", lambda root: (f"{i % 10}/{i:06}.jpg" for i in range(many)))
    source = sources.make(f"folder:{tmp_path}")
    assert len(source) == many and source.classes("label") == tuple(map(str, range(10)))
    assert len(pickle.dumps(source)) < 22 * many


def test_object_stores_are_folders():
    system = fsspec.filesystem("memory")
    for name, content in {"a/1.png": image(1), "b/2.png": image(2), "b/2.txt": b"two"}.items():
        system.pipe_file(f"/bucket/{name}", content)
    system.pipe_file("/bucket/metadata.csv", b"file_name,age\na/1.png,4\n")
    try:
        source = sources.make("folder:memory://bucket")
        assert without_image(source) == [
            {"label": "a", "caption": None, "age": 4, "key": "a/1.png"},
            {"label": "b", "caption": "two", "age": None, "key": "b/2.png"},
        ]
        assert source[1]["image"] == image(2)
        assert sources.make("folder:memory://bucket/b").keys()[0] == "2.png"
        with pytest.raises(ConfigError, match="is not there"):
            sources.make("folder:memory://bucket/c")
    finally:
        system.rm("/bucket", recursive=True)


def test_what_cannot_be_opened_is_refused(tmp_path: pathlib.Path):
    written(tmp_path, {"a/1.txt": "", "a/2.txt": "", "a/film.mp4": b"", "LICENSE": "", "1.2.840.7": b"no scan"})
    with pytest.raises(
        ConfigError, match=r"no image, but 2 \.txt, 1 \.7, 1 without a suffix, 1 \.mp4\. Images end in .*\.jpg"
    ):
        sources.make(f"folder:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no image, but nothing at all"):
        sources.make(f"folder:{tmp_path}/empty")
    with pytest.raises(ConfigError, match="this folder is not there"):
        sources.make(f"folder:{tmp_path}/absent")
    with pytest.raises(ConfigError, match="this folder is a file.*csv:PATH"):
        sources.make(f"folder:{tmp_path}/LICENSE")


def test_scans_without_a_suffix_are_found_where_nothing_else_is(tmp_path: pathlib.Path):
    scan = b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\0\0\0\0"
    contents = {"p1/IM0001": scan, "p2/1.2.840.113619": scan, "DICOMDIR": scan, "p1/README": "no scan", "x.xml": ""}
    assert [*opened(tmp_path, contents).keys()] == ["p1/IM0001", "p1/README", "p2/1.2.840.113619"]
    assert [*opened(tmp_path, {"p1/a.dcm": scan}).keys()] == ["p1/a.dcm"]


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val", "test"), ("train",)])
def test_splits_are_not_taken_together(tmp_path: pathlib.Path, names: tuple[str, ...]):
    contents = {f"{name}/{kind}/1.png": image() for name in names for kind in ("cat", "dog")}
    with pytest.raises(ConfigError, match=rf"name one of them, such as 'folder:{tmp_path}/{names[0]}'"):
        opened(tmp_path, contents)
    assert sources.make(f"folder:{tmp_path}/{names[-1]}").classes("label") == ("cat", "dog")
    assert len(opened(tmp_path, {"steam/1.png": image()})) == 2 * len(names) + 1  # Engines, then.
