"""Files by path and URL: what a pattern names, in one order everywhere, and reasons where bytes are not to be had."""

from __future__ import annotations

import errno
import http.server
import os
import pathlib
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import files
from vitfm.data.bad import BadExample
from vitfm.data.texts import Texts

TREE = ["b.jpg", "a/2.jpg", "a/10.jpg", "a/x/1.jpg", "a.txt", "a b/é.png", "z-1.tar", "z-2.tar", "z-10.tar"]
LITTER = [".hidden.jpg", ".git/x.jpg", "__MACOSX/b.jpg", "a/._2.jpg", "a/Thumbs.db", "a/desktop.ini", "@eaDir/b.jpg"]


class Flaky(MemoryFileSystem):
    """Fails so often before it answers."""

    protocol = "flaky"
    failures: ClassVar[list[Exception]] = []

    def cat_file(self, path: str, **options: Any) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        return b"at last"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in no time."""
    made: list[float] = []
    monkeypatch.setattr(files.time, "sleep", made.append)
    return made


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    """A folder with the files of `TREE` and `LITTER`, each with its name inside."""
    at = str(tmp_path) if request.param == "local" else "memory://bucket/data"
    system, inside = fsspec.core.url_to_fs(at)
    for name in TREE + LITTER:
        system.makedirs(os.path.dirname(f"{inside}/{name}"), exist_ok=True)
        system.pipe_file(f"{inside}/{name}", name.encode())
    yield at
    if request.param == "memory":
        system.rm("/bucket", recursive=True)


def reason(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(BadExample) as error:
        call()
    return error.value.reason, str(error.value)


def test_a_folder_is_all_below_it_in_the_order_of_the_parts(root: str):
    wanted = ["a/10.jpg", "a/2.jpg", "a/x/1.jpg", "a b/é.png", "a.txt", "b.jpg", "z-1.tar", "z-10.tar", "z-2.tar"]
    assert list(files.below(root)) == list(files.below(f"{root}/")) == wanted
    assert files.listing(root) == [f"{root}/{name}" for name in wanted]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("b.jpg", ["b.jpg"]),
        ("*.tar", ["z-1.tar", "z-10.tar", "z-2.tar"]),
        ("z-{1..2}.tar", ["z-1.tar", "z-2.tar"]),
        ("z-{2,10}.tar", ["z-2.tar", "z-10.tar"]),
        ("{z,y}-*.tar", None),
        ("{a,a b}/*", ["a/10.jpg", "a/2.jpg", "a b/é.png"]),
        ("**/*.jpg", ["a/10.jpg", "a/2.jpg", "a/x/1.jpg", "b.jpg"]),
        ("z-?.tar", ["z-1.tar", "z-2.tar"]),
        ("z-{1..3}.tar", None),
        ("nothing/*.jpg", None),
        ("c.jpg", None),
    ],
)
def test_patterns_name_files(root: str, pattern: str, names: list[str] | None):
    if names is None:
        with pytest.raises(ConfigError, match=r"There is no file '.*(y-\*|z-3|nothing/\*|c)\.(tar|jpg)'"):
            files.listing(f"{root}/{pattern}")
    else:
        assert files.listing(f"{root}/{pattern}") == [f"{root}/{name}" for name in names]


def test_a_name_that_exists_is_no_pattern(tmp_path: pathlib.Path):
    for name in ("[a]{1..2}.jpg", "a1.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert files.listing(f"{tmp_path}/[a]{{1..2}}.jpg") == [f"{tmp_path}/[a]{{1..2}}.jpg"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x", ["x"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("a{1..2}/{x,y}b", ["a1/xb", "a1/yb", "a2/xb", "a2/yb"]),
        ("{x}{}{1..}", ["{x}{}{1..}"]),
    ],
)
def test_braces(pattern: str, names: list[str]):
    assert files.expand(pattern) == names


def test_bytes_sizes_and_ranges(root: str):
    path = f"{root}/a/10.jpg"
    assert files.read(path) == b"a/10.jpg"
    assert files.read_range(path, 2, 4) == b"10.j"
    assert files.read_range(path, 3, 0) == b""
    assert files.size(path) == 8
    assert files.exists(path) and files.exists(f"{root}/a") and not files.exists(f"{root}/c")
    assert files.is_folder(f"{root}/a") and not files.is_folder(path) and not files.is_folder(f"{root}/c")
    with files.stream(path) as file:
        assert file.read() == b"a/10.jpg"


def test_what_is_gone_is_a_bad_example_at_once(root: str, waits: list[float]):
    gone = f"{root}/gone.jpg"
    for call in (lambda: files.read(gone), lambda: files.read_range(gone, 0, 1), lambda: files.size(gone)):
        found, message = reason(call)
        assert found == "missing" and gone in message
    found, message = reason(lambda: files.read_range(f"{root}/b.jpg", 2, 4))
    assert found == "truncated" and "b.jpg ends before byte 6" in message
    with pytest.raises(ConfigError, match="gone.jpg' can't be opened"):
        files.stream(gone)
    assert not waits


def test_a_folder_or_a_text_is_no_file(tmp_path: pathlib.Path, waits: list[float]):
    assert reason(lambda: files.read(str(tmp_path)))[0] == "missing"
    assert reason(lambda: files.read("a long text " * 500))[0] == "missing"
    assert not waits


@pytest.mark.parametrize("root", ["local"], indirect=True)
def test_home_and_file_urls_are_local(root: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", root)
    assert files.read("~/b.jpg") == files.read(f"file://{root}/b.jpg") == b"b.jpg"
    assert files.listing("~/z-?.tar") == ["~/z-1.tar", "~/z-2.tar"]
    assert list(files.below("~")) == list(files.below(f"file://{root}")) == list(files.below(root))


def test_links_are_followed_and_loops_not(tmp_path: pathlib.Path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.jpg").write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.jpg").write_bytes(b"")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "data" / "self.jpg").symlink_to(tmp_path / "data" / "self.jpg")
    os.mkfifo(tmp_path / "data" / "pipe.jpg")  # To read it would be to wait for ever.
    root = f"{tmp_path}/data"
    assert list(files.below(root)) == ["a/1.jpg", "b/2.jpg", "gone.jpg", "self.jpg"]
    for name in ("gone.jpg", "self.jpg"):
        assert reason(lambda name=name: files.read(f"{root}/{name}"))[0] == "missing"


def test_a_folder_that_is_not_there_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(ConfigError, match=r"'.*/none' can't be opened: .*No such file"):
        list(files.below(f"{tmp_path}/none"))


@pytest.fixture
def flaky() -> Iterator[type[Flaky]]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    yield Flaky
    Flaky.failures = []


def test_errors_that_pass_are_waited_for(flaky: type[Flaky], waits: list[float]):
    flaky.failures = [TimeoutError("slow"), OSError(errno.EIO, "reset"), RuntimeError("the library's own")]
    assert files.read("flaky://x") == b"at last"
    assert waits == [0.5, 1.0, 2.0]


def test_errors_that_stay_end_in_a_bad_example(flaky: type[Flaky], waits: list[float]):
    flaky.failures = [TimeoutError("slow")] * 9
    assert reason(lambda: files.read("flaky://x")) == ("missing", "flaky://x can't be read: TimeoutError: slow.")
    assert waits == [0.5, 1.0, 2.0, 4.0] and len(flaky.failures) == 4


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (404, 1), (429, 5), (500, 5), (503, 5)])
def test_a_refusal_is_not_asked_again(flaky: type[Flaky], waits: list[float], status: int, attempts: int):
    error = RuntimeError("the server says no")
    error.status = status
    flaky.failures = [error] * 9
    assert reason(lambda: files.read("flaky://x"))[0] == "missing"
    assert 9 - len(flaky.failures) == attempts


def test_too_many_open_files_are_no_files_fault(monkeypatch: pytest.MonkeyPatch, waits: list[float]):
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(files, "open", full, raising=False)
    with pytest.raises(OSError, match="Too many") as error:
        files.read("x.jpg")
    assert not isinstance(error.value, ValueError) and len(waits) == 4


@pytest.mark.parametrize(("protocol", "extra"), [("gs", "gcs"), ("gcs", "gcs"), ("s3", "s3"), ("s3a", "s3")])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, protocol: str, extra: str):
    def absent(path: str) -> Any:
        raise ImportError("Install it")

    monkeypatch.setattr(files.fsspec.core, "url_to_fs", absent)
    with pytest.raises(ConfigError, match=re.escape(f"pip install 'vitfm[{extra}]'")):
        files.read(f"{protocol}://bucket/a.jpg")


def test_a_store_that_does_not_let_us_in_is_named(flaky: type[Flaky], monkeypatch: pytest.MonkeyPatch):
    class Refused(Exception):
        """Of a library."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise Refused("no credentials")

    for name in ("info", "exists", "find", "glob", "open"):
        monkeypatch.setattr(Flaky, name, refuse)
    calls = [files.exists, files.is_folder, files.listing, files.stream, lambda path: list(files.below(path))]
    for call in calls:
        with pytest.raises(ConfigError, match=r"'flaky://bucket/x' can't be opened: no credentials\."):
            call("flaky://bucket/x")


def test_an_unknown_protocol_is_refused():
    for call in (files.read, files.listing, files.exists, files.size, lambda path: list(files.below(path))):
        with pytest.raises(ConfigError, match=r"reads tsf:// of 'tsf://x': Protocol not known: tsf"):
            call("tsf://x")


@pytest.mark.parametrize(
    ("folder", "path", "joined"),
    [
        ("/a", "b/c.jpg", "/a/b/c.jpg"),
        ("/a/", "b.jpg", "/a/b.jpg"),
        ("", "b.jpg", "b.jpg"),
        ("/", "b.jpg", "/b.jpg"),
        ("a", "/b.jpg", "/b.jpg"),
        ("a", "s3://b/c.jpg", "s3://b/c.jpg"),
        ("memory://", "b.jpg", "memory://b.jpg"),
        ("gs://a/b", "../c.jpg", "gs://a/b/../c.jpg"),
    ],
)
def test_join(folder: str, path: str, joined: str):
    assert files.join(folder, path) == joined


@pytest.mark.parametrize(("path", "folder"), [("a/b.csv", "a/"), ("b.csv", ""), ("memory://b.csv", "memory://")])
def test_parent(path: str, folder: str):
    assert files.parent(path) == folder


class Serve(http.server.BaseHTTPRequestHandler):
    """Sixteen bytes, whole or in ranges; `/plain` knows no ranges."""

    def do_GET(self) -> None:
        self.do_HEAD(b"0123456789abcdef")

    def do_HEAD(self, content: bytes = b"") -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.path == "/ranges" else None
        content = content[int(found[1]) : int(found[2]) + 1] if found else content
        self.send_response(404 if self.path == "/none" else 206 if found else 200)
        self.send_header("Content-Length", str(len(content) or 16))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def test_http(waits: list[float]):
    pytest.importorskip("aiohttp")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for name in ("ranges", "plain"):
            assert files.read(f"{url}/{name}") == b"0123456789abcdef"
            assert files.read_range(f"{url}/{name}", 3, 5) == b"34567"
        assert files.exists(f"{url}/plain") and not files.exists(f"{url}/none")
        assert reason(lambda: files.read(f"{url}/none"))[0] == "missing"
        server.shutdown()
    assert not waits


@given(st.lists(st.text()))
def test_texts_are_a_sequence(texts: list[str]):
    ours = pickle.loads(pickle.dumps(Texts(iter(texts))))
    assert list(ours) == texts and len(ours) == len(texts)
    if texts:
        assert ours[-1] == texts[-1]
    with pytest.raises(IndexError):
        ours[len(texts)]


def test_names_that_are_no_utf8_survive(tmp_path: pathlib.Path):
    (pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))).write_bytes(b"here")
    (path,) = Texts(files.below(str(tmp_path)))
    assert files.read(f"{tmp_path}/{path}") == b"here"
