"""Where samples lie in tars: found once, kept beside, found again when the tar has changed or the index is damaged."""

import io
import multiprocessing
import os
import pathlib
import tarfile
import threading

import fsspec
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import tar_index


def write(path, members, format=tarfile.GNU_FORMAT):
    """A tar of (name, content); a content of None is a folder."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return str(path)


def contents(path, index):
    """Key -> extension -> bytes, through the index."""
    data = pathlib.Path(path).read_bytes()
    cut = lambda span: data[span[0] : span[0] + span[1]]
    return {
        index.key(row): {extension: cut(span) for extension, span in index.members(row).items()}
        for row in range(len(index))
    }


PAIRS = [(f"{n:04d}.{kind}", b"%d %s" % (n, kind.encode())) for n in range(20) for kind in ("jpg", "txt")]
WHOLE = {f"{n:04d}": {"jpg": b"%d jpg" % n, "txt": b"%d txt" % n} for n in range(20)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tar(tmp_path):
    return write(tmp_path / "a.tar", PAIRS)


@pytest.fixture
def looks(monkeypatch):
    """The tars that were looked through."""
    seen, real = [], tar_index._looked_through
    monkeypatch.setattr(tar_index, "_looked_through", lambda tar, stamp: seen.append(tar) or real(tar, stamp))
    return seen


def test_finds_samples_once_and_keeps_them_beside(tar, looks):
    for _ in range(3):
        index = tar_index.make(tar)
        assert contents(tar, index) == WHOLE and list(index.all_keys()) == list(WHOLE)
        assert index.extensions == ("jpg", "txt") and index.note == ""
    assert looks == [tar]
    assert os.listdir(os.path.dirname(tar)) == ["a.tar", "a.tar.index.safetensors"]
    with safetensors.safe_open(tar + tar_index.SUFFIX, "numpy") as file:  # Anyone can read it.
        assert file.get_tensor("members").shape == (40, 3)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_names(tmp_path, format):
    long = "long/" * 40 + "x" * 90
    names = ["日本/猫.é.JPG", "./b.jpg", f"{long}.jpg", "a/b.c/d.e.tar.gz", "no_dot", ".hidden.jpg", "._0001.jpg"]
    names += ["__meta__", "__index__/0001.jpg", "empty/", "sp ace.jpg", "ends."]
    tar = write(tmp_path / "a.tar", [(name, None if name == "empty/" else name.encode()) for name in names], format)
    assert contents(tar, tar_index.make(tar)) == {
        "日本/猫": {"é.jpg": "日本/猫.é.JPG".encode()},
        "b": {"jpg": b"./b.jpg"},
        long: {"jpg": f"{long}.jpg".encode()},
        "a/b.c/d": {"e.tar.gz": b"a/b.c/d.e.tar.gz"},
        "sp ace": {"jpg": b"sp ace.jpg"},
    }


def test_names_that_are_no_utf8_can_be_printed_and_hashed(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", encoding="latin-1") as tar:
        for name in ("caf\xe9.jpg", "caf\xe8.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    keys = list(tar_index.make(str(path)).all_keys())
    assert len(set(keys)) == 2 and all(key.startswith("caf") and key.encode() for key in keys)


def test_members_in_any_order_and_again(tmp_path):
    members = [*PAIRS[::2], ("new.jpg", b""), *reversed(PAIRS[1::2]), ("0003.jpg", b"better"), ("dir", None)]
    tar = write(tmp_path / "a.tar", members)
    index = tar_index.make(tar)
    assert contents(tar, index) == WHOLE | {"new": {"jpg": b""}, "0003": {"jpg": b"better", "txt": b"3 txt"}}
    assert list(index.all_keys()) == [*WHOLE, "new"]
    assert "1 members again" in index.note
    with tarfile.open(tar) as whole:
        assert whole.extractfile("0003.jpg").read() == b"better"  # As tar has it, too.


def test_links_are_the_files_they_lead_to(tmp_path):
    path = tmp_path / "a.tar"
    links = [(tarfile.LNKTYPE, "x/b.jpg", "x/a.jpg"), (tarfile.LNKTYPE, "./c.jpg", "./x/a.jpg")]
    links += [(tarfile.SYMTYPE, "y/d.jpg", "../x/a.jpg"), (tarfile.LNKTYPE, "x/a.txt", "x/a.jpg")]
    links += [(tarfile.LNKTYPE, "e.jpg", "nowhere.jpg"), (tarfile.SYMTYPE, "f.jpg", "/x/a.jpg")]
    with tarfile.open(path, "w") as tar:
        for kind, name, target in links[:2]:  # Before and behind the file.
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            tar.addfile(link)
        file = tarfile.TarInfo("x/a.jpg")
        file.size = 5
        tar.addfile(file, io.BytesIO(b"image"))
        pipe = tarfile.TarInfo("p.jpg")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)
        for kind, name, target in links[2:]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            tar.addfile(link)
    index = tar_index.make(str(path))
    found = contents(str(path), index)
    assert found.pop("x/a") == {"jpg": b"image", "txt": b"image"}
    assert found == {key: {"jpg": b"image"} for key in ("x/b", "c", "y/d")}
    assert index.note == "has 2 links that lead to no file in it, and are left out"


def test_empty_tar(tmp_path):
    index = tar_index.make(write(tmp_path / "a.tar", []))
    assert len(index) == 0 and list(index.all_keys()) == [] and index.extensions == ()


@pytest.mark.parametrize("change", ["append", "touch", "other"])
def test_a_tar_that_has_changed_is_looked_through_again(tar, looks, change):
    old = tar_index.make(tar)
    if change == "append":
        with tarfile.open(tar, "a") as whole:
            whole.addfile(tarfile.TarInfo("new.jpg"))
    elif change == "touch":
        os.utime(tar, ns=(0, os.stat(tar).st_mtime_ns + 1))
    else:
        write(tar, [("other.jpg", b"")])
    with pytest.raises(ConfigError, match=r"a\.tar' has changed"):
        os.replace(tar + tar_index.SUFFIX, tar + ".gone")
        tar_index.make(tar, old.stamp)
    keys = list(tar_index.make(tar).all_keys())
    assert keys == {"append": [*WHOLE, "new"], "touch": [*WHOLE], "other": ["other"]}[change]
    assert len(looks) == 2


def test_a_stale_index_is_replaced(tar, looks):
    tar_index.make(tar)
    write(tar, [("other.jpg", b"")])
    assert list(tar_index.make(tar).all_keys()) == list(tar_index.make(tar).all_keys()) == ["other"]
    assert len(looks) == 2


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_index_is_made_again(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    tar = write(folder / "a.tar", PAIRS)
    tar_index.make(tar)
    place = pathlib.Path(tar + tar_index.SUFFIX)
    whole = place.read_bytes()
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at, flips = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
        damaged = whole[:at] + bytes([whole[at] ^ flips]) + whole[at + 1 :]
    place.write_bytes(damaged)
    assert contents(tar, tar_index.make(tar)) == WHOLE
    assert contents(tar, tar_index.Index(str(place), check=True)) == WHOLE


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_tar_is_refused_or_used_up_to_there(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    whole = pathlib.Path(write(folder / "a.tar", PAIRS, tarfile.PAX_FORMAT)).read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, max(len(damaged) - 1, 0)), max_size=3)) if damaged else ():
        damaged[at] = data.draw(st.integers(0, 255))
    path = folder / "b.tar"
    path.write_bytes(damaged)
    try:
        index = tar_index.make(str(path))
    except ConfigError:
        return
    for members in (index.members(row) for row in range(len(index))):
        assert all(start + length <= len(damaged) for start, length in members.values())


def test_truncation_keeps_what_is_whole(tmp_path):
    whole = pathlib.Path(write(tmp_path / "a.tar", PAIRS)).read_bytes()
    for members in range(1, 40):  # Two blocks each, a header and its content.
        for cut in (1, 511, 512, 513, 515):
            path = tmp_path / f"{members}_{cut}.tar"
            path.write_bytes(whole[: members * 1024 + cut])
            index = tar_index.make(str(path))
            assert sum(len(index.members(row)) for row in range(len(index))) == members
            assert "used up to there" in index.note
    exact = tmp_path / "exact.tar"
    exact.write_bytes(whole[: 10 * 1024])  # Some programs write no end.
    assert len(tar_index.make(str(exact))) == 5 and tar_index.make(str(exact)).note == ""


def test_what_is_no_header_is_not_taken_for_the_end(tmp_path):
    path = tmp_path / "a.tar"
    data = bytearray(pathlib.Path(write(path, PAIRS)).read_bytes())
    data[10 * 1024 + 5] ^= 1
    path.write_bytes(data)
    index = tar_index.make(str(path))
    assert len(index) == 5 and f"damaged or cut off at byte {10 * 1024}" in index.note


def test_a_negative_size_does_not_go_round_for_ever(tmp_path):
    info = tarfile.TarInfo("b.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-2048 + 256**12).to_bytes(12, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    path = tmp_path / "a.tar"
    path.write_bytes(pathlib.Path(write(path, PAIRS[:4])).read_bytes()[:4096] + header + bytes(1024))
    index = tar_index.make(str(path))
    assert list(index.all_keys()) == ["0000", "0001"] and "used up to there" in index.note


@pytest.mark.parametrize("start", [b"", b"<!DOCTYPE html>" * 100, b"\xff\xd8\xff" * 500, b"PK\x03\x04" * 300])
def test_refuses_what_is_no_tar(tmp_path, start):
    (tmp_path / "x.tar").write_bytes(start)
    with pytest.raises(ConfigError, match=r"x\.tar' is no tar: it begins with b'") as error:
        tar_index.make(str(tmp_path / "x.tar"))
    assert repr(start[:9])[2:-1] in str(error.value)


@pytest.mark.parametrize(("mode", "command"), [("gz", "gunzip"), ("bz2", "bunzip2"), ("xz", "unxz")])
def test_says_how_to_unpack_what_is_compressed(tmp_path, mode, command):
    with tarfile.open(tmp_path / "x.tar", f"w:{mode}") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ConfigError, match=rf"is compressed.*`{command} .*x\.tar`"):
        tar_index.make(str(tmp_path / "x.tar"))


def read_only(monkeypatch, folder):
    """Root may write anywhere, so this says no in its place."""
    real = os.replace

    def replace(source, target):
        if os.path.dirname(target) == str(folder):
            raise PermissionError(13, "Permission denied", target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_where_nothing_can_be_written_the_cache_has_it(tar, cache, looks, monkeypatch):
    read_only(monkeypatch, os.path.dirname(tar))
    assert contents(tar, tar_index.make(tar)) == contents(tar, tar_index.make(tar)) == WHOLE
    assert len(looks) == 1 and len(os.listdir(cache)) == 1
    assert sorted(os.listdir(os.path.dirname(tar))) == ["a.tar", "cache"]
    os.utime(tar, ns=(0, 0))
    tar_index.make(tar)
    assert len(looks) == 2 and len(os.listdir(cache)) == 1


def test_a_stale_index_in_a_place_that_is_read_only(tar, looks, monkeypatch):
    tar_index.make(tar)
    write(tar, [("other.jpg", b"")])
    read_only(monkeypatch, os.path.dirname(tar))
    for _ in range(2):
        assert list(tar_index.make(tar).all_keys()) == ["other"]
    assert len(looks) == 2


def test_says_where_it_could_not_be_kept(tar, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ConfigError, match=r"a\.tar.*VITFM_CACHE"):
        tar_index.make(tar)
    assert [name for name in os.listdir(os.path.dirname(tar)) if name.startswith(".")] == []


def test_stays_open_while_its_file_goes(tar):
    index = tar_index.make(tar)
    os.remove(tar + tar_index.SUFFIX)
    assert contents(tar, index) == WHOLE
    assert contents(tar, tar_index.make(tar, index.stamp)) == WHOLE  # Made again where it is gone.


def found(tar, barrier):
    barrier.wait()
    return contents(tar, tar_index.make(tar))


def worker(tar, barrier, queue):
    queue.put(found(tar, barrier))


def test_four_processes_and_four_threads_at_once(tar):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(4), context.Queue()
    processes = [context.Process(target=worker, args=(tar, barrier, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [WHOLE] * 4
    for process in processes:
        process.join()
    os.remove(tar + tar_index.SUFFIX)
    results, gate = [], threading.Barrier(4)
    threads = [threading.Thread(target=lambda: results.append(found(tar, gate))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [WHOLE] * 4
    assert sorted(os.listdir(os.path.dirname(tar))) == ["a.tar", "a.tar.index.safetensors"]


def test_remote_tars_share_their_index(tar, cache, looks):
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/a.tar", pathlib.Path(tar).read_bytes())
    url = "memory://bucket/a.tar"
    try:
        assert contents(tar, tar_index.make(url)) == WHOLE
        assert system.exists("/bucket/a.tar" + tar_index.SUFFIX) and looks == [url]
        for file in cache.iterdir():  # Another machine.
            file.unlink()
        assert contents(tar, tar_index.make(url)) == WHOLE and looks == [url]
        system.pipe_file("/bucket/a.tar" + tar_index.SUFFIX, b"damaged")
        for file in cache.iterdir():
            file.unlink()
        assert contents(tar, tar_index.make(url)) == WHOLE and looks == [url] * 2
        system.pipe_file("/bucket/a.tar", pathlib.Path(write(tar, [("other.jpg", b"")])).read_bytes())
        assert list(tar_index.make(url).all_keys()) == ["other"] and looks == [url] * 3
    finally:
        system.rm("/bucket", recursive=True)


def test_large_offsets(tmp_path):
    """Beyond 4 GiB, in a file with holes."""
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        big = tarfile.TarInfo("big.jpg")
        big.size = 2**32 + 512
        file.write(big.tobuf(tarfile.GNU_FORMAT))
        file.seek(big.size, os.SEEK_CUR)
        small = tarfile.TarInfo("small.jpg")
        file.write(small.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    index = tar_index.make(str(path))
    assert index.members(0) == {"jpg": (512, 2**32 + 512)} and index.members(1) == {"jpg": (2**32 + 1536, 0)}
