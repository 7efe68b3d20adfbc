"""Tables of images: every row where it is, whatever is quoted, and values of the kind that their column has."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
import pickle
from collections.abc import Sequence
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import labels, sources, tables
from vitfm.data.bad import BadExample
from vitfm.data.sources import base


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a/1.jpg, a/2.jpg and `b c/3.jpg`, each with its name inside."""
    for name in ("a/1.jpg", "a/2.jpg", "b c/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def opened(folder: pathlib.Path, content: str | bytes, name: str = "x.csv", options: str = "") -> base.Source:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    scheme = "jsonl" if name.endswith(".jsonl") else "csv"
    return sources.make(f"{scheme}:{folder}/{name}{options}")


def lines(*objects: Any) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in objects)


def columns(table: tables.Table) -> dict[str, list[Any]]:
    """All of a table by columns, which has to be all of it by rows."""
    rows = [table.row(index) for index in range(len(table))]
    found = {name: table.column(name) for name in table.names}
    assert [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)] == rows
    return found


CSV = 'path,caption,label,age,size\na/1.jpg,"an apple, red",3,40,1\n\nb c/3.jpg,"two ""lines""\nof text",0,,2.5\n'


def test_an_image_a_row_of_csv(images: pathlib.Path):
    source = opened(images, CSV)
    assert isinstance(source, base.Source) and source.name == f"{images}/x.csv" and len(source) == 2
    first = {"path": "a/1.jpg", "caption": "an apple, red", "label": 3, "age": 40, "size": 1.0}
    second = {"path": "b c/3.jpg", "caption": 'two "lines"\nof text', "label": 0, "age": None, "size": 2.5}
    assert list(source) == [
        {**first, "image": b"a/1.jpg", "key": "a/1.jpg"},
        {**second, "image": b"b c/3.jpg", "key": "b c/3.jpg"},
    ]
    assert source.roles == {"image": "image", "label": "label", "caption": "caption"}
    assert source.column("label") == [3, 0] and source.column("key") == source.keys() == ["a/1.jpg", "b c/3.jpg"]
    assert source.key(-1) == "b c/3.jpg" and source[-1] == source[1]
    assert all(type(value) is int for value in source.column("label"))
    with pytest.raises(IndexError):
        source[2]
    assert labels.make(open_source=lambda: source)(source[0]) == 3


def test_an_image_a_line_of_jsonl(images: pathlib.Path):
    rows = [
        {"image": "a/1.jpg", "text": "é\u2028", "tags": ["x", ["y"]], "n": 1},
        {"image": "a/2.jpg", "m": {"k": [1]}},
    ]
    source = opened(images, "\n" + lines(*rows) + "  \n", "x.jsonl")
    assert list(source) == [
        {"image": b"a/1.jpg", "key": "a/1.jpg", "text": "é\u2028", "tags": ("x", ("y",)), "n": 1, "m": None},
        {"image": b"a/2.jpg", "key": "a/2.jpg", "text": None, "tags": None, "n": None, "m": {"k": (1,)}},
    ]
    assert source.roles == {"image": "image", "caption": "text"}
    assert source.column("text") == ["é\u2028", None] and source.column("m") == [None, {"k": (1,)}]


def test_options_name_the_columns(images: pathlib.Path):
    content = "image,the scan,finding of it,text\nhttp://x/1.jpg,a/1.jpg,cyst,one\nhttp://x/2.jpg,a/2.jpg,none,two\n"
    source = opened(images, content, options="?image=the+scan&label=finding%20of%20it&caption=image")
    assert source[1]["image"] == b"a/2.jpg" and source[1]["the scan"] == "a/2.jpg"
    assert source.roles == {"image": "image", "label": "finding of it", "caption": "image"}
    assert labels.make(open_source=lambda: source).classes == ("cyst", "none")
    part = sources.make(f"csv:{images}/x.csv?image=the+scan#:99%&by=text")
    assert set(part.keys()) <= set(source.keys())


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("file_name,caption", ("file_name", None, "caption")),
        ("text,Path,class", ("Path", "class", "text")),
        ("path,image,label,class", ("image", "label", None)),
        ("Filename,other", ("Filename", None, None)),
    ],
)
def test_columns_are_found_by_their_names(images: pathlib.Path, names: str, chosen: tuple[str | None, ...]):
    source = opened(images, f"{names}\n{','.join(['a/1.jpg'] * (names.count(',') + 1))}\n")
    image, label, caption = chosen
    assert source.roles.get("label") == label and source.roles.get("caption") == caption
    assert source.column("key") == source.column(image) if image != "image" else True
    assert source[0]["image"] == b"a/1.jpg"


def test_paths_lead_from_the_file_or_anywhere(images: pathlib.Path):
    (images / "tables").mkdir()
    fsspec.filesystem("memory").pipe_file("/far/1.jpg", b"far")
    content = f"image\n../a/1.jpg\n{images}/a/2.jpg\nmemory://far/1.jpg\n"
    source = opened(images / "tables", content)
    assert [example["image"] for example in source] == [b"a/1.jpg", b"a/2.jpg", b"far"]
    fsspec.filesystem("memory").pipe_file("/far/x.csv", b"image,n\n1.jpg,1\n")
    assert list(sources.make("csv:memory://far/x.csv")) == [{"image": b"far", "key": "1.jpg", "n": 1}]


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "x.csv"), (";", "x.csv"), ("\t", "x.csv"), ("|", "x.csv"), ("\t", "x.tsv")]
)
def test_delimiters_are_seen_in_the_head(images: pathlib.Path, delimiter: str, name: str):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([("image", "a,b", "c"), ("a/1.jpg", "1;2|3,4\t5", "d")])
    source = opened(images, "\ufeff" + file.getvalue(), name)
    assert list(source) == [{"image": b"a/1.jpg", "key": "a/1.jpg", "a,b": "1;2|3,4\t5", "c": "d"}]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1", "-20", "0"], [1, -20, 0]),
        (["1", "", "2"], [1, None, 2]),
        (["1", "2.5", "1e3"], [1.0, 2.5, 1000.0]),
        (["1", ".5", "-inf"], [1.0, 0.5, -math.inf]),
        (["1", "2", "x"], ["1", "2", "x"]),
        (["007", "010", "1"], ["007", "010", "1"]),
        (["1", "1" * 30], [1.0, float("1" * 30)]),
        (["1_000", "1"], ["1_000", "1"]),
        (["٣", "1"], ["٣", "1"]),
        ([" 1", "2 "], [1, 2]),
        (["True", "False"], ["True", "False"]),
        (["", ""], [None, None]),
    ],
)
def test_a_column_is_of_one_kind(tmp_path: pathlib.Path, values: Sequence[str], wanted: Sequence[Any]):
    (tmp_path / "x.csv").write_text("name,v\n" + "".join(f"n,{value}\n" for value in values))
    found = columns(tables.Csv(f"{tmp_path}/x.csv"))["v"]
    assert found == wanted and [type(a) for a in found] == [type(a) for a in wanted]


def test_rows_may_be_short_and_files_end_anywhere(tmp_path: pathlib.Path):
    (tmp_path / "x.csv").write_text("a,b,\n1\n,,\n2,x,rest")
    table = tables.Csv(f"{tmp_path}/x.csv")
    assert table.names == ("a", "b")
    assert columns(table) == {"a": [1, 2], "b": [None, "x"]}


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(text, text, st.integers(-9, 9)), max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_csv_is_what_the_csv_module_wrote(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], end: str
):
    path = tmp_path_factory.getbasetemp() / "drawn.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerows([("x", "y", "n"), *(("'" + x + "'", "<" + y + ">", n) for x, y, n in rows)])
    found = pickle.loads(pickle.dumps(tables.Csv(str(path))))
    wanted = {"x": [f"'{x}'" for x, _, _ in rows], "y": [f"<{y}>" for _, y, _ in rows], "n": [n for _, _, n in rows]}
    assert columns(found) == wanted


@settings(deadline=None)
@given(st.lists(st.dictionaries(text, st.none() | st.integers() | text | st.lists(text), min_size=1), min_size=1))
def test_jsonl_is_what_the_json_module_wrote(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]):
    path = tmp_path_factory.getbasetemp() / "drawn.jsonl"
    path.write_text(lines(*rows))
    found = columns(pickle.loads(pickle.dumps(tables.Jsonl(str(path)))))
    assert found == {name: [tables.plain(row.get(name)) for row in rows] for row in rows for name in row}


def test_damaged_rows_are_bad_examples_alone(images: pathlib.Path):
    rows = [b'{"image": "a/1.jpg", "n": 1}', b'{"image": "a/2.j', b"[1]", b'{"n": 4}', b'{"image": "a/9.jpg"}', b"\xff"]
    source = opened(images, b"\n".join(rows), "x.jsonl")
    reasons = []
    for index in range(1, 6):
        with pytest.raises(BadExample) as error:
            source[index]
        reasons.append(error.value.reason)
    assert reasons == ["corrupt", "corrupt", "missing", "missing", "corrupt"]
    assert source.column("n") == [1, None, None, 4, None, None] and source[0]["n"] == 1


def test_damaged_rows_of_csv_too(images: pathlib.Path):
    source = opened(images, b"image,n\na/1.jpg,1\na/2.jpg,1,2,3\na/1.jpg,\xff\n,5\n")
    assert source[0]["n"] == "1"
    for index, reason, words in ((1, "corrupt", "has 4 values"), (2, "corrupt", "no UTF-8"), (3, "missing", "None")):
        with pytest.raises(BadExample, match=words) as error:
            source[index]
        assert error.value.reason == reason
    assert len(source.keys()) == 4


def test_workers_read_what_was_opened(images: pathlib.Path):
    source = opened(images, CSV)
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy) == list(source)
    many = opened(images, "image\n" + "a/1.jpg\n" * 5000)
    assert len(pickle.dumps(many)) < 9 * 5000 + 1000


@pytest.mark.parametrize(
    ("content", "name", "options", "words"),
    [
        ("url,caption\nx,y\n", "x.csv", "", r"no column for its images.* which of url, caption .*\?image=COLUMN'"),
        ("image\nb/1.jpg\nb/2.jpg\n", "x.csv", "", r"none of 2 images is there, such as '.*/b/1\.jpg'\. Paths are rel"),
        ("image,caption\na/1.jpg,x\n", "x.csv", "?caption=captoin", r"no column 'captoin': did you mean 'caption'"),
        ("image\na/1.jpg\n", "x.csv", "?imgae=image", r"Unknown key config\.data\.source\.imgae: did you mean 'image'"),
        ("image,text,text\na/1.jpg,x,y\n", "x.csv", "", r"names of its columns, each another"),
        ("", "x.csv", "", r"must begin with the names"),
        ("image,n\n", "x.csv", "", r"has no rows"),
        ('image,n\na/1.jpg,"' + "x" * 200_000, "x.csv", "", r"row 0: field larger .* is a quote left open"),
        ("image,n\n".encode("utf-16"), "x.csv", "", r"UTF-16; save it as UTF-8"),
        ("", "x.jsonl", "", r"has no JSON object"),
        (json.dumps([{"image": "a/1.jpg"}]), "x.jsonl", "", r"has no JSON object, such as \{\"image\": \"a\.jpg\"\}"),
    ],
)
def test_what_cannot_be_opened_is_refused(
    images: pathlib.Path, content: str | bytes, name: str, options: str, words: str
):
    with pytest.raises(ConfigError, match=words):
        opened(images, content, name, options)


@pytest.mark.parametrize("scheme", ["csv", "jsonl"])
def test_a_file_that_is_not_there_is_refused(tmp_path: pathlib.Path, scheme: str):
    with pytest.raises(ConfigError, match=r"none\.csv' can't be opened: .*No such file"):
        sources.make(f"{scheme}:{tmp_path}/none.csv")


def test_a_question_mark_may_be_in_the_path(images: pathlib.Path):
    assert opened(images, "image\na/1.jpg\n", "why?.csv")[0]["image"] == b"a/1.jpg"
