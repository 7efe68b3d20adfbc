"""`prepare --beam`: the same bytes as without, whatever runs the pipeline."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from collections.abc import Callable

import pytest
import tensorflow_datasets as tfds

from tests.data.test_prepare import contents

Prepare = Callable[..., str]
THREADS = ("--beam", "--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_threading")
PROCESSES = (*THREADS[:-1], "--direct_running_mode=multi_processing")


@pytest.mark.parametrize("flags", [("--beam",), THREADS, pytest.param(PROCESSES, marks=pytest.mark.slow)])
def test_the_same_bytes(photos: pathlib.Path, prepare: Prepare, tmp_path: pathlib.Path, flags: tuple[str, ...]):
    said = prepare(f"folder:{photos}", "--shards=5", "--resize=40", *flags, folder="beam")
    prepare(f"folder:{photos}", "--shards=5", "--resize=40")
    assert contents(tmp_path / "beam") == contents(tmp_path / "out")
    assert "40 examples" in said and "1 empty, 1 format, 1 truncated" in said


def test_parts_of_a_mixture(photos: pathlib.Path, prepare: Prepare, tmp_path: pathlib.Path):
    parts = [{"source": f"folder:{photos}", "name": "photos"}, {"source": "tfds:emoji:validation[:5]", "name": "emoji"}]
    (tmp_path / "mixture.json").write_text(json.dumps({"parts": parts}))
    flags = ("--shards=2", "--splits", "train=#:80%", "test=#80%:")
    prepare(tmp_path / "mixture.json", "--beam", *flags, folder="beam")
    prepare(tmp_path / "mixture.json", *flags)
    assert contents(tmp_path / "beam") == contents(tmp_path / "out")
    splits = tfds.builder_from_directory(tmp_path / "beam" / "mine" / "1.0.0").info.splits
    assert sum(split.num_examples for split in splits.values()) == 45 and {*splits} == {"train", "test"}


def test_goes_on_where_processes_stopped(photos: pathlib.Path, prepare: Prepare, tmp_path: pathlib.Path):
    folder = tmp_path / "out" / "mine" / "1.0.0"
    prepare(f"folder:{photos}", "--shards=4", "--max-bad=0", refused=True)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("mine-train.array_record-*")}
    assert 0 < len(times) < 4
    prepare(f"folder:{photos}", "--shards=4", "--beam")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(list(folder.glob("mine-train.array_record-*"))) == 4


def test_what_goes_wrong_on_a_worker_is_told(
    photos: pathlib.Path, prepare: Prepare, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    from vitfm.data.prepare import planning, store

    monkeypatch.setattr(planning, "is_of", lambda plan, source: False)
    said = prepare(f"folder:{photos}", "--beam", refused=True)
    assert "has other examples on a worker" in said and "while running" not in said
    monkeypatch.undo()
    monkeypatch.setattr(store, "put", lambda place, path: None)  # Where only the worker would see it.
    said = prepare(f"folder:{photos}", "--beam", folder="elsewhere", refused=True)
    assert "Beam's workers and this machine can write" in said


def test_it_is_an_extra(photos: pathlib.Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "apache_beam" else find(name))
    assert "pip install 'vitfm[beam]'" in prepare(f"folder:{photos}", "--beam", refused=True)


def test_options_are_whose_they_are(photos: pathlib.Path, prepare: Prepare):
    assert "--direct_num_workers=2" in prepare(f"folder:{photos}", "--beam", "--workers=3", refused=True)
    assert "need --beam" in prepare(f"folder:{photos}", "--runner=DirectRunner", refused=True)
