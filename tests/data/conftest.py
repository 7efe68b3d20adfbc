"""What tests of `python -m vitfm.data prepare` share: a folder of photos, the command, and what it has written."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.data import broken
from vitfm.data import sources
from vitfm.data.__main__ import main
from vitfm.data.sources import base

CLASSES = ("ant", "bee", "cat")
BAD = {"ant/x.jpg": ("empty", b""), "bee/y.png": ("format", b"<html>"), "cat/z.jpg": ("truncated", None)}
_FORMATS = ("JPEG", "PNG", "WEBP")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """40 images in three folders, most with a caption, and three files that are none."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(40):
        form, folder = _FORMATS[number % 3], root / CLASSES[number % 3]
        folder.mkdir(exist_ok=True)
        content = broken.encoded(broken.picture(rng), form)
        (folder / f"{number:02}.{broken.SUFFIXES[form]}").write_bytes(content)
        if number % 7:
            (folder / f"{number:02}.txt").write_text(f"an animal, {number} é")
    whole = broken.encoded(broken.picture(rng), "JPEG")
    for name, (_, content) in BAD.items():
        (root / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    return root


@pytest.fixture
def prepare(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command in this process, and returns what it says; code 2 where `refused`."""

    def run(source: Any, *flags: str, folder: str = "out", refused: bool = False) -> str:
        at = folder if "://" in folder else str(tmp_path / folder)
        flags = flags if any(flag.startswith(("--workers", "--beam")) for flag in flags) else ("--workers=0", *flags)
        code = main(["prepare", str(source), at, "--name=mine", *flags])
        printed = capsys.readouterr()
        assert code == (2 if refused else 0), printed.err
        return printed.err if refused else printed.out

    return run


@pytest.fixture
def opened(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., base.Source]:
    """Opens a split that was prepared."""

    def run(split: str = "train", folder: str = "out") -> base.Source:
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / folder))
        return sources.make(f"tfds:mine:{split}")

    return run
