"""Tar shards are read like any source: by index, by feature, in other processes, and refused in words."""

import io
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tarfile

import fsspec
import numpy as np
import pytest
from PIL import Image

from vitfm.config import ConfigError
from vitfm.data import files, pipeline, sources, tar_index
from vitfm.data.bad import BadExample
from vitfm.data.sources import base, webdataset
from vitfm.show import duplicates


def jpeg(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number * 7 % 256, 50, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number):
    """As img2dataset has it."""
    key = f"{number:09d}"
    facts = {"key": key, "caption": f"a cat {number}", "width": 8, "similarity": number / 4, "tags": ["a", "b"]}
    facts |= {"error_message": None, "url": f"https://x.org/{number}.jpg"}
    text = f"a cat {number}\n".encode()
    return [(f"{key}.jpg", jpeg(number)), (f"{key}.json", json.dumps(facts).encode()), (f"{key}.txt", text)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path):
    """Three of 4, 5 and 6 examples, and what img2dataset writes beside them."""
    folder, number = tmp_path / "set", 0
    for shard in range(3):
        numbers = range(number, number + 4 + shard)
        write(folder / f"{shard:05d}.tar", [member for n in numbers for member in sample(n)])
        number = numbers.stop
        (folder / f"{shard:05d}_stats.json").write_text("{}")
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return folder


def first(source):
    return source[11]


def test_an_example_has_all_that_img2dataset_wrote(shards):
    source = sources.make(f"webdataset:{shards}")
    assert isinstance(source, base.Source) and len(list(source)) == len(source) == 15
    assert source.roles == {"image": "image", "caption": "caption"}
    for n in range(15):
        shard = 0 if n < 4 else 1 if n < 9 else 2
        assert source[n] == {
            "image": jpeg(n),
            "caption": f"a cat {n}",
            "width": 8,
            "similarity": n / 4,
            "tags": ("a", "b"),
            "error_message": None,
            "url": f"https://x.org/{n}.jpg",
            "key": f"0000{shard}.tar/{n:09d}",
        }
        assert source.key(n) == source[n]["key"]
    assert source[-1] == source[14] and source[np.int64(3)] == source[3]
    with pytest.raises(IndexError):
        source[15]


@pytest.mark.parametrize(
    ("pattern", "length"), [("", 15), ("/*.tar", 15), ("/{00000..00001}.tar", 9), ("/{00002,00000}.tar", 10)]
)
def test_patterns(shards, pattern, length):
    for _ in range(2):  # Without and with indexes in the folder.
        source = sources.make(f"webdataset:{shards}{pattern}")
        assert len(source) == length
        assert source[0]["key"] == ("00002.tar/000000009" if "," in pattern else "00000.tar/000000000")


def test_columns_are_read_without_images(shards, monkeypatch):
    source = sources.make(f"webdataset:{shards}")
    read, seen = webdataset.files.read_range, []
    monkeypatch.setattr(webdataset.files, "read_range", lambda *span: seen.append(read(*span)) or seen[-1])
    assert source.column("caption") == [f"a cat {n}" for n in range(15)]
    assert base.column(source, "similarity", "x") == [n / 4 for n in range(15)]
    assert list(source.column("key")) == list(source.keys()) == [source.key(n) for n in range(15)]
    assert sum(b"JFIF" in content for content in seen) == 1  # base.column looks at one example.
    with pytest.raises(ConfigError, match="'image' of all examples is no column"):
        source.column("image")


def test_same_bytes_in_a_process_of_its_own(shards):
    source = sources.make(f"webdataset:{shards}")
    source[3]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(first, (source,)) == source[11]
    code = f"from vitfm.data import sources; print(repr(sources.make('webdataset:{shards}')[11]))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert eval(out) == source[11]


def test_the_words_of_a_json_count_where_there_is_no_text(tmp_path):
    members = [(f"{n}.png", b"\x89PNG") for n in range(4)]
    members += [
        ("0.json", b'{"text": "zero", "n": 1}'),
        ("1.json", b'{"text": "x"}'),
        ("1.txt", b"\xef\xbb\xbf one\r\n"),
    ]
    members += [("2.json", b'{"text": "two", "n": 2, "other": 3}'), ("2.txt", b" ")]
    source = webdataset.make(str(write(tmp_path / "a.tar", members)))
    assert [(own["caption"], own["n"]) for own in source] == [("zero", 1), ("one", None), ("two", 2), (None, None)]
    assert source.column("caption") == ["zero", "one", "two", None]
    assert source.column("n") == [1, None, 2, None]


def test_labels_and_other_members(tmp_path):
    members = [("a/1.JPG", b"\xff\xd8\xff"), ("a/1.cls", b"7\n"), ("a/1.npy", b"\x93NUMPY"), ("a/1.mask.png", b"mask")]
    members += [("b/1.jpg", b"first"), ("b/1.png", b"second"), ("b/1.0.txt", b"zero"), ("b/1.key", b"no")]
    source = webdataset.make(str(write(tmp_path / "a.tar", members)))
    assert source.roles == {"image": "image", "label": "label"}
    common = dict.fromkeys(("label", "npy", "mask.png", "0.txt"))
    expected = {"image": b"\xff\xd8\xff", "label": 7, "npy": b"\x93NUMPY", "mask.png": b"mask", "key": "a.tar/a/1"}
    assert source[0] == common | expected
    assert source[1] == common | {"image": b"first", "png": b"second", "0.txt": "zero", "key": "a.tar/b/1"}
    assert source.column("label") == [7, None]
    assert source.column("mask.png") == [b"mask", None]


def test_members_that_lie_apart(tmp_path):
    images = [(f"{n}.jpg", b"%d" % n + bytes(50_000)) for n in range(5)]
    texts = [(f"{n}.txt", b"text %d" % n) for n in reversed(range(5))]
    source = webdataset.make(str(write(tmp_path / "a.tar", [*images, *texts])))
    for n in range(5):
        assert source[n] == {"image": images[n][1], "caption": f"text {n}", "key": f"a.tar/{n}"}


def test_an_example_is_one_read(shards, monkeypatch):
    source = sources.make(f"webdataset:{shards}")
    source[0]
    read, seen = webdataset.files.read_range, []
    monkeypatch.setattr(webdataset.files, "read_range", lambda *span: seen.append(span) or read(*span))
    source[1]
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("members", "reason", "words"),
    [
        ([("b.txt", b"alone")], "missing", "a.tar/b has no image, only txt"),
        ([("b.jpg", b""), ("b.json", b"{")], "corrupt", "a.tar/b.json is no JSON object"),
        ([("b.jpg", b""), ("b.json", b"[1]")], "corrupt", "a.tar/b.json is no JSON object"),
        ([("b.jpg", b""), ("b.txt", b"\xff\xfe")], "caption", "a.tar/b.txt is no text in UTF-8"),
        ([("b.jpg", b""), ("b.cls", b"cat")], "corrupt", "a.tar/b.cls is no integer: b'cat'"),
    ],
)
def test_an_example_is_bad_for_a_reason(tmp_path, members, reason, words):
    good = [("a.jpg", b""), ("a.json", b'{"x": 1}'), ("a.txt", b"a"), ("a.cls", b"1")]
    source = webdataset.make(str(write(tmp_path / "a.tar", [*good, *members, ("c.jpg", b"")])))
    assert source[0]["x"] == 1 and source[2]["caption"] is None
    with pytest.raises(BadExample, match=words) as error:
        source[1]
    assert error.value.reason == reason
    assert source.column("caption") == ["a", "alone" if reason == "missing" else None, None]


def test_a_shard_that_goes_is_missing(shards):
    source = sources.make(f"webdataset:{shards}")
    os.remove(shards / "00001.tar")
    assert source[0]["key"] == "00000.tar/000000000"
    with pytest.raises(BadExample) as error:
        source[5]
    assert error.value.reason == "missing"


def test_truncated_shards_are_used_up_to_there(shards, caplog):
    with tarfile.open(shards / "00002.tar") as tar:
        start = tar.getmember("000000011.jpg").offset_data
    os.truncate(shards / "00002.tar", start + 100)
    for _ in range(2):
        source = sources.make(f"webdataset:{shards}")
        (message,) = [record.getMessage() for record in caplog.records]
        assert "1 of 3 tars" in message and "00002.tar ends in the middle of '000000011.jpg'" in message
        caplog.clear()
    assert [source[n]["caption"] for n in range(len(source))] == [f"a cat {n}" for n in range(11)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"0.tar": b"<html>"}, r"0\.tar' is no tar: it begins with b'<html>'"),
        ({"0.tar": None, "1.tar.gz": b"\x1f\x8b"}, r"1\.tar\.gz' is compressed.*gunzip"),
        ({"0.tgz": b"\x1f\x8b"}, r"0\.tgz' is compressed.*gunzip"),
        ({"0.tar.zst": b""}, r"0\.tar\.zst' is compressed.*unzstd"),
        ({"a.jpg": b"\xff\xd8\xff"}, r"a\.jpg' is no tar"),
        ({"empty.tar": bytes(10240)}, "0 examples in 1 tars, none with an image, but nothing"),
        ({"other.tar": "npy"}, "1 examples in 1 tars, none with an image, but npy"),
    ],
)
def test_refuses_in_words(tmp_path, files, words):
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            write(tmp_path / name, [(f"x.{content or 'jpg'}", b"")])
    with pytest.raises(ConfigError, match=words):
        webdataset.make(str(tmp_path))


def test_a_mask_is_no_image(tmp_path):
    """An example that has a mask alone is replaced, and missed by what looks for copies."""
    members = [(f"{n}{end}", jpeg(n)) for n in range(5) for end in (".jpg", ".mask.png") if (n, end) != (2, ".jpg")]
    write(tmp_path / "0.tar", members)
    source = sources.make(f"webdataset:{tmp_path}")
    with pytest.raises(BadExample, match=r"0\.tar/2 has no image, only mask\.png") as error:
        source[2]
    assert error.value.reason == "missing"
    loader = pipeline.make(source=f"webdataset:{tmp_path}", image_size=8).train_loader(batch_size=5, seed=0)
    ((_, found),) = loader.replaced(0, loader.batch(0)["replaced"])
    assert found.key == "0.tar/2"
    assert [found.key for _, found in duplicates.perceptual([f"webdataset:{tmp_path}"]).look.unreadable] == ["0.tar/2"]


def test_an_image_of_another_name_is_the_image_where_none_is_plain(tmp_path):
    members = [
        (f"{n}.{kind}", jpeg(n)) for n in range(5) for kind in ("input.jpg", "mask.png") if (n, kind[0]) != (2, "i")
    ]
    write(tmp_path / "0.tar", members)
    source = sources.make(f"webdataset:{tmp_path}")
    assert source.roles == {"image": "input.jpg"} and source[1]["input.jpg"] == jpeg(1)
    with pytest.raises(BadExample, match=r"0\.tar/2 has no image, only mask\.png"):
        source[2]
    made = pipeline.make(source=f"webdataset:{tmp_path}", image="input.jpg", image_size=8)
    assert made.train_loader(batch_size=5, seed=0).batch(0)["image"].shape == (5, 8, 8, 3)


def test_numbers_behind_a_dot_are_no_names_of_images(tmp_path):
    write(tmp_path / "0.tar", [(f"x.{n:03}.jpg", jpeg(n)) for n in range(9)])
    with pytest.raises(ConfigError, match=r"1 examples .* but 000\.jpg, .* no other dot in the name"):
        sources.make(f"webdataset:{tmp_path}")


def test_a_few_captions_are_a_few_reads(shards, monkeypatch):
    source, reads = sources.make(f"webdataset:{shards}"), []
    by = files.read_range
    monkeypatch.setattr(files, "read_range", lambda *asked: reads.append(asked) or by(*asked))
    for part in (source, sources.make(f"webdataset:{shards}#:99%")):
        reads.clear()
        column = base.column(part, "caption", "x")
        assert base.some(part, "caption", "x", [1, 12, 1]) == [column[1], column[12], column[1]]
        assert base.some(part, "key", "x", [1, 12]) == [part.key(1), part.key(12)]
    reads.clear()
    base.some(source, "caption", "x", [1, 12])
    assert len(reads) == 3  # The texts of each, and the example that tells the features.


def test_no_such_shard(shards):
    with pytest.raises(ConfigError, match=r"00003\.tar"):
        sources.make(f"webdataset:{shards}/{{00000..00003}}.tar")


def test_parts_and_remote_shards(shards):
    system = fsspec.filesystem("memory")
    for path in shards.glob("*.tar"):
        system.pipe_file(f"/bucket/set/{path.name}", path.read_bytes())
    try:
        here, there = sources.make(f"webdataset:{shards}"), sources.make("webdataset:memory://bucket/set/*.tar")
        assert [there[n] for n in range(15)] == [here[n] for n in range(15)]  # Keys, too.
        part, rest = (sources.make(f"webdataset:memory://bucket/set#{part}") for part in (":60%", "60%:"))
        assert sorted(own["key"] for source in (part, rest) for own in source) == list(here.keys())
    finally:
        system.rm("/bucket", recursive=True)


def test_many_shards_take_few_files(tmp_path):
    """More shards than a process may have files open."""
    for n in range(200):
        write(tmp_path / f"{n:03d}.tar", [(f"{n}.jpg", b"%d" % n)])
    source = webdataset.make(str(tmp_path))
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    assert [source[n]["image"] for n in range(200)] == [b"%d" % n for n in range(200)]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 130


def test_as_webdataset_reads_them(shards):
    wds = pytest.importorskip("webdataset")
    paths = sorted(map(str, shards.glob("*.tar")))
    theirs = list(wds.WebDataset(paths, shardshuffle=False, empty_check=False))
    source = sources.make(f"webdataset:{shards}")
    assert len(theirs) == len(source)
    for other, own in zip(theirs, source, strict=True):
        assert own["key"] == f"{os.path.basename(other['__url__'])}/{other['__key__']}"
        assert own["image"] == other["jpg"] and own["caption"] == other["txt"].decode().strip()
        assert own["similarity"] == json.loads(other["json"])["similarity"]


def test_shards_of_webdatasets_own_writer(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(str(tmp_path / "%03d.tar"), maxcount=4, verbose=0) as writer:
        for n in range(10):
            pixels = np.full((4, 4, 3), n * 10, np.uint8)
            writer.write({"__key__": f"dir/ä{n}", "jpg": pixels, "cls": n % 3, "txt": f"text {n}", "json": {"n": n}})
    source = webdataset.make(str(tmp_path / "{000..002}.tar"))
    assert [(own["label"], own["caption"], own["n"]) for own in source] == [(n % 3, f"text {n}", n) for n in range(10)]
    assert source.key(9) == "002.tar/dir/ä9"
    assert np.asarray(Image.open(io.BytesIO(source[9]["image"]))).mean() == pytest.approx(90, abs=2)


def test_index_files_are_no_shards(shards):
    sources.make(f"webdataset:{shards}")
    assert len(sources.make(f"webdataset:{shards}/0*tar*")) == 15
    assert len(list(pathlib.Path(shards).glob("*" + tar_index.SUFFIX))) == 3
