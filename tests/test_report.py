"""`python -m vitfm.report`: one run's report again, a page about several, and what is no run."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.metrics.test_comparison import write
from vitfm import report


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The working directory, with two runs and a folder that is none."""
    for name in ("mae", "dino"):
        write(tmp_path / "runs" / name, {"loss": 1.0})
    (tmp_path / "runs/notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_runs_report_is_written_again(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    page = folder / "runs/mae/report.html"
    page.write_text("old")
    assert report.main(["runs/mae"]) == 0
    assert "<h1>mae" in page.read_text()
    assert capsys.readouterr().out.strip() == str(page)


def test_several_runs_are_compared(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    assert report.main(["runs/mae", "runs/dino"]) == 0
    assert report.main(["runs/dino", "runs/mae", "--out=pages/sweep.html"]) == 0
    assert capsys.readouterr().out.split() == ["comparison.html", "pages/sweep.html"]
    assert "<title>mae, dino" in (folder / "comparison.html").read_text()
    assert "<title>dino, mae" in (folder / "pages/sweep.html").read_text()
    assert not (folder / "runs/mae/report.html").exists()


def test_a_run_given_twice_is_one(folder: pathlib.Path):
    assert report.main(["runs/mae", str(folder / "runs/mae/")]) == 0
    assert (folder / "runs/mae/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/mea"], "There is no run's directory 'runs/mea': did you mean 'runs/mae'?"),
        (["runs/mae", "runs/notes"], "runs/notes is no run directory: it holds neither config.json nor metrics.jsonl."),
        (["runs/mae", "--out=x.html"], "--out=x.html is for a page about several runs"),
        (["runs/mae", "runs/dino", "--out=runs/notes"], "The page can't be written: "),
    ],
)
def test_refuses_in_words(folder: pathlib.Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str):
    assert report.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_command_helps():
    command = [sys.executable, "-m", "vitfm.report", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "comparison.html" in done.stdout
