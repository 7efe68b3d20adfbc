"""`python -m vitfm.data`: quick to open, teaches by examples, and refuses in words."""

from __future__ import annotations

import argparse
import io
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import rich.console

from vitfm.data import __main__ as command
from vitfm.data.prepare.progress import Progress

COMMANDS = ("prepare", "show", "stats", "duplicates")


def test_opens_without_what_it_may_not_need():
    code = (
        "import sys; from vitfm.data.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'jax', 'tensorflow_datasets', 'apache_beam', 'grain'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert all(name in done.stdout for name in COMMANDS)


def test_reading_and_writing_need_no_jax(tmp_path: pathlib.Path):
    code = (
        "import sys; from vitfm.data.__main__ import main\n"
        f"flags = ['{tmp_path}', '--name=mine', '--workers=0']\n"
        "assert main(['prepare', 'tfds:emoji:validation[:3]', *flags]) == 0\n"
        "assert main(['stats', 'tfds:emoji:validation[:3]']) == 0\n"
        "assert not {'jax', 'tensorflow'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_has_examples_that_parse(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        command.main(words)
    assert end.value.code == 0
    printed = capsys.readouterr().out
    examples = re.findall(r"^ *(?:\w+=\S+ )?python -m vitfm\.data (.*?)(?:   .*)?$", printed, re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        arguments, rest = command._parser().parse_known_args(shlex.split(example.removesuffix(" ...")))
        assert callable(arguments.run)
        beam = getattr(arguments, "beam", False)
        assert beam or all(word.startswith("--config.") for word in rest), rest


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--name=My-Set"], ["--name=My-Set", "small letters"]),
        (["--name=emoji"], ["inside vitfm", "another"]),
        (["--name=a", "--version=1"], ["--version=1", "1.0.0"]),
        (["--name=a", "--shard=3"], ["'--shard=3'", "did you mean '--shards'"]),
        (["--name=a", "--shards=0"], ["--shards=0 must be at least 1"]),
        (["--name=a", "--max-bad=-1"], ["--max-bad=-1.0 must be at least 0"]),
        (["--name=a", "--shard-mb=0"], ["--shard-mb"]),
        (["--name=a", "--resize=0"], ["--resize=0"]),
        (["--name=a", "--split=all"], ["'all'"]),
        (["--name=a", "--split=a-b"], ["'a-b'"]),
        (["--name=a", "--split=a", "--splits", "b=#:1%"], ["--splits", "give one"]),
        (["--name=a", "--splits", "b"], ["--splits 'b'", "SPLIT=PART"]),
        (["--name=a", "--splits", "b=#:50%", "b=#50%:"], ["--splits", "'b'", "'#:50%' and '#50%:'"]),
        (["--name=a", "--feature=x=int", "--feature=x=text"], ["--feature", "'x'", "'int' and 'text'"]),
        (["--name=a", "--feature=x"], ["--feature 'x'", "NAME=TYPE"]),
        (["--name=a", "--feature=x=flaot"], ["x=flaot", "did you mean 'float'"]),
    ],
)
def test_prepare_refuses_in_words(
    flags: list[str], words: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    assert command.main(["prepare", "tfds:emoji:validation", str(tmp_path / "out"), *flags]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("vitfm: ") and all(word in printed for word in words), printed
    assert not (tmp_path / "out").exists()


def test_errors_and_interrupts_have_their_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert command.main(["stats", "folder:/nowhere/at/all"]) == 2
    assert "vitfm: folder:/nowhere/at/all" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        command.main(["perpare"])
    assert end.value.code == 2

    def interrupted(arguments: argparse.Namespace, rest: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.stats, "run", interrupted)
    assert command.main(["stats", "tfds:emoji"]) == 130


def test_progress_is_told_in_lines_where_there_is_no_terminal():
    now, out = [0.0], io.StringIO()
    with Progress("a:train", 1000, 200, rich.console.Console(file=out), lambda: now[0]) as bar:
        for seen in range(0, 800, 100):
            now[0] += 4
            bar.seen((seen, seen * 10**5))
    lines = out.getvalue().splitlines()
    assert lines[0] == "a:train  400/1,000  17 images/s  1.7 MB/s  36 s left" and len(lines) == 2
    assert lines[1].startswith("a:train  700/1,000  ")


def test_progress_is_a_bar_on_a_terminal():
    out = io.StringIO()
    console = rich.console.Console(file=out, force_terminal=True, color_system=None, width=120)
    with Progress("a:train", 1000, 200, console) as bar:
        bar.seen((800, 10**8))
    assert "1,000/1,000" in out.getvalue() and "images/s" in out.getvalue()
