"""`python -m vitfm.data prepare`: what was in a source is in the data set, once, in an order that nothing changes."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import fsspec
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.data import broken
from tests.data.conftest import BAD, CLASSES
from vitfm.data import labels, sources
from vitfm.data.permutation import permuted
from vitfm.data.sources import base


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_as_it_was(photos: pathlib.Path, prepare: Any, opened: Any, tmp_path: pathlib.Path):
    said = prepare(f"folder:{photos}", "--shards=3")
    before, after = sources.make(f"folder:{photos}"), opened()
    indices = {key: index for index, key in enumerate(base.keys(before))}
    assert after.roles == {"image": "image", "label": "label", "caption": "caption"}
    assert after.classes("label") == before.classes("label") == CLASSES
    assert sorted(base.keys(after)) == sorted(set(indices) - set(BAD)) and len(after) == 40
    for index, example in enumerate(after):
        assert after.key(index) == example["key"]
        assert {**example, "label": CLASSES[example["label"]]} == before[indices[example["key"]]]
    assert after.column("label") == [example["label"] for example in after]
    assert after.column("caption").count(None) == 6  # Every seventh of forty has none.
    assert "40 examples" in said and "1 empty, 1 format, 1 truncated" in said and "caption: text" in said
    assert labels.make(open_source=lambda: after).classes == CLASSES
    in_part = {key for key in base.keys(sources.make(f"folder:{photos}#:50%")) if key not in BAD}
    assert {*base.keys(sources.make("tfds:mine:train#:50%"))} == in_part  # By the same keys.


def test_tfds_reads_it_without_us(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    prepare(f"folder:{photos}", "--shards=4")
    builder = tfds.builder_from_directory(tmp_path / "out" / "mine" / "1.0.0")
    split, found = builder.info.splits["train"], builder.as_data_source("train")
    assert builder.info.supervised_keys == ("image", "label") and builder.info.features["label"].names == [*CLASSES]
    assert len(found) == split.num_examples == 40 and sum(split.shard_lengths) == 40 and len(split.shard_lengths) == 4
    for example in found:
        path = photos / example["key"].decode()
        if path.suffix == ".png":
            np.testing.assert_array_equal(example["image"], np.asarray(Image.open(path)))
        text = path.with_suffix(".txt")
        assert example["caption"] == (text.read_bytes() if text.exists() else None)
    raw = builder.as_data_source("train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    assert split.num_bytes == sum(len(record) for record in raw)
    assert all(name.startswith("mine-train.array_record-0000") for name in split.filenames)


def test_what_can_not_be_used_is_counted_and_listed(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    source = f"folder:{photos}"
    said = prepare(source, "--max-bad=0.05", refused=True)
    assert "3 of 43 examples can't be used, more than --max-bad=0.05" in said and "truncated: files that end" in said
    assert not (tmp_path / "out" / "mine" / "1.0.0" / "dataset_info.json").exists()
    prepare(source, "--max-bad=0.1")  # Goes on.
    prepare(source, folder="at_once")
    assert contents(tmp_path / "out") == contents(tmp_path / "at_once")
    lines = (tmp_path / "out" / "mine" / "1.0.0" / "rejects_train.jsonl").read_text().splitlines()
    found = {own["key"]: own for own in map(json.loads, lines)}
    assert {key: own["reason"] for key, own in found.items()} == {key: reason for key, (reason, _) in BAD.items()}
    opened = sources.make(source)
    assert all(opened.key(own["id"]) == key for key, own in found.items())


def test_no_check_stores_what_looks_like_an_image(photos: pathlib.Path, prepare: Any, opened: Any):
    prepare(f"folder:{photos}", "--no-check")
    assert {*BAD} - {*base.keys(opened())} == {"ant/x.jpg", "bee/y.png"}


def test_order_depends_on_the_seed_alone(photos: pathlib.Path, prepare: Any, opened: Any, tmp_path: pathlib.Path):
    source = f"folder:{photos}"
    keys = list(base.keys(sources.make(source)))
    for flags, order in (
        (("--shards=5",), permuted(np.arange(43), 43, 0)),
        (("--shards=1",), permuted(np.arange(43), 43, 0)),
        (("--shards=2", "--shuffle-seed=1"), permuted(np.arange(43), 43, 1)),
        (("--shards=3", "--no-shuffle"), range(43)),
    ):
        prepare(source, *flags, folder=flags[-1])
        assert list(base.keys(opened(folder=flags[-1]))) == [keys[i] for i in order if keys[i] not in BAD]


def test_bytes_do_not_depend_on_processes(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    for workers in (0, 2):
        prepare(f"folder:{photos}", "--shards=5", f"--workers={workers}", folder=str(workers))
    assert contents(tmp_path / "0") == contents(tmp_path / "2")
    assert (
        len(contents(tmp_path / "0")) == 10
    )  # Five shards, what was left out, and of what it was made; three of TFDS.


def test_shards_have_about_the_size_that_is_asked_for(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    prepare(f"folder:{photos}", "--shard-mb=0.02")
    split = tfds.builder_from_directory(tmp_path / "out" / "mine" / "1.0.0").info.splits["train"]
    assert 0.01e6 < split.num_bytes / split.num_shards < 0.03e6
    assert max(split.shard_lengths) - min(split.shard_lengths) <= 3  # Even, but for the three that are left out.


def test_a_shard_of_which_nothing_can_be_used(photos: pathlib.Path, prepare: Any, opened: Any):
    prepare(f"folder:{photos}", "--shards=99")
    source = opened()
    assert len(source) == 40 and sorted(base.keys(source)) == sorted(example["key"] for example in source)


# -- Killed, damaged, full


_CHILD = """\
import os, signal, sys
at, after, count, replace = int(sys.argv[1]), sys.argv[2] == "after", 0, os.replace
def counted(*names):
    global count
    count += 1
    if count == at and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counted
from vitfm.data.__main__ import main
sys.exit(main(sys.argv[3:]))
"""
STEPS = 1 + 2 * 3 + 5  # The plan; three shards, each with a mark; what is left out, TFDS's files, of what it was made.


@pytest.mark.parametrize(
    ("step", "when"),
    [(2, "before"), (5, "after"), (STEPS, "before")]
    + [pytest.param(s, w, marks=pytest.mark.slow) for s in range(1, STEPS + 1) for w in ("before", "after")],
)
def test_killed_at_any_step(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path, step: int, when: str):
    """The same command goes on, and what it makes is what one call would have made."""
    flags = ["--name=mine", "--shards=3", "--workers=0"]
    words = ["prepare", f"folder:{photos}", str(tmp_path / "out"), *flags]
    child = subprocess.run([sys.executable, "-c", _CHILD, str(step), when, *words], capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    written = contents(tmp_path / "out")
    assert ("mine/1.0.0/dataset_info.json" in written) == (step == STEPS and when == "after")
    prepare(f"folder:{photos}", "--shards=3")
    prepare(f"folder:{photos}", "--shards=3", folder="at_once")
    assert contents(tmp_path / "out") == contents(tmp_path / "at_once")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_time(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path, seed: int):
    """With processes, which end when the one that started them is gone."""
    rng = np.random.default_rng(seed)
    flags = ["prepare", f"folder:{photos}", str(tmp_path / "out"), "--name=mine", "--shards=20", "--workers=2"]
    while True:
        child = subprocess.Popen([sys.executable, "-m", "vitfm.data", *flags], stdout=subprocess.DEVNULL)
        try:
            assert child.wait(rng.uniform(1, 12)) == 0
            break
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    prepare(f"folder:{photos}", "--shards=20", folder="at_once")
    assert contents(tmp_path / "out") == contents(tmp_path / "at_once")


def test_a_damaged_shard_is_written_again(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    source, folder = f"folder:{photos}", tmp_path / "out" / "mine" / "1.0.0"
    prepare(source, "--shards=3", "--max-bad=0", refused=True)
    shard = next(folder.glob("mine-train.array_record-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (folder / "incomplete_train" / "00001.json").write_text("{")
    prepare(source, "--shards=3")
    whole = contents(folder)
    shard.unlink()
    prepare(source, "--shards=3")
    assert contents(folder) == whole
    assert "is there, and whole: 40 examples" in prepare(source, "--shards=3")


def test_finished_shards_are_kept(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    folder = tmp_path / "out" / "mine" / "1.0.0"
    prepare(f"folder:{photos}", "--shards=3", "--max-bad=0", refused=True)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("mine-train.array_record-*")}
    prepare(f"folder:{photos}", "--shards=3")
    assert times and all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_a_full_disk_is_told(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        said = prepare(f"folder:{photos}", "--shards=1", refused=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "array_record-00000-of-00001 can't be written" in said and "File too large" in said
    prepare(f"folder:{photos}", "--shards=1")
    assert not list((tmp_path / "out").rglob("*.writing"))


@dataclasses.dataclass(frozen=True)
class Deadly:
    """A source at whose fifth example a process that writes shards ends, or says who it is and waits for ever."""

    waits: str
    name: str = "deadly"

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 5 and multiprocessing.parent_process() is not None:
            if not self.waits:
                os._exit(9)
            pathlib.Path(self.waits).write_text(str(os.getpid()))
            time.sleep(1000)
        return {"image": broken.png(1, 1, 8, 0, b"\0\0")}


make = Deadly


def test_a_process_that_dies_is_told(prepare: Any):
    said = prepare("tests.data.test_prepare:", "--workers=1", refused=True)
    assert "A process that writes shards died" in said and "goes on where it stopped" in said


def test_processes_end_with_the_one_that_started_them(tmp_path: pathlib.Path):
    flags = ["prepare", f"tests.data.test_prepare:{tmp_path}/pid", str(tmp_path / "out"), "--name=mine", "--workers=1"]
    child = subprocess.Popen([sys.executable, "-m", "vitfm.data", *flags], stdout=subprocess.DEVNULL)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process = pathlib.Path("/proc", (tmp_path / "pid").read_text(), "stat")
    assert process.exists()
    child.kill()
    child.wait()
    until(lambda: not process.exists() or process.read_text().rpartition(")")[2].split()[0] == "Z")


def until(happens: Callable[[], Any]) -> None:
    """Waits for it; the limit is for what never does."""
    for _ in range(600):
        if happens():
            return
        time.sleep(0.1)
    raise AssertionError("It does not happen.")


def test_two_at_once_are_refused(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    folder = tmp_path / "out" / "mine" / "1.0.0"
    folder.mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another process is writing into" in prepare(f"folder:{photos}", refused=True)
    finally:
        os.close(lock)
    (tmp_path / "file").write_text("")
    assert "can't be written" in prepare(f"folder:{photos}", folder="file", refused=True)


def test_to_an_object_store(photos: pathlib.Path, prepare: Any, tmp_path: pathlib.Path):
    system = fsspec.filesystem("memory")
    try:
        said = prepare(f"folder:{photos}", "--shards=2", folder="memory://prepared/data")
        written = {path.removeprefix("/prepared/data/"): system.cat_file(path) for path in system.find("/prepared")}
        assert "is there, and whole" in prepare(f"folder:{photos}", "--shards=2", folder="memory://prepared/data")
    finally:
        system.rm("/prepared", recursive=True)
    prepare(f"folder:{photos}", "--shards=2")
    assert written == contents(tmp_path / "out") and "copied to a disk" in said
