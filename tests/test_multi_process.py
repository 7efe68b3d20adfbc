"""Processes that are joined by a network train what one process with as many devices trains."""

import collections
import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import tiny
from vitfm import bad_data
from vitfm.checkpoint.manager import Checkpoints
from vitfm.data import loader as loading
from vitfm.data import pipeline

SPOILED = f"--config={tiny.ROOT / 'tests/tiny.py'}:spoiled"  # The last on a command line counts.


def launched(workdir: pathlib.Path, *overrides: str) -> subprocess.Popen[str]:
    """Two processes of one device, by the launcher."""
    command = [sys.executable, "launch/local.py", "--processes=2", "--", *tiny.arguments(workdir, *overrides)]
    return subprocess.Popen(
        command, cwd=tiny.ROOT, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One process with two devices."""
    workdir = tmp_path_factory.mktemp("processes") / "one"
    done = tiny.run(["vitfm.main"], workdir, SPOILED)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def two(one: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """The same run in two processes, and the lines they printed."""
    with launched(one.with_name("two"), SPOILED) as process:
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return one.with_name("two"), output.splitlines()


def test_two_processes_are_one(one: pathlib.Path, two: tuple[pathlib.Path, list[str]]) -> None:
    expected, found = tiny.rows(one), tiny.rows(two[0])
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for row, other in zip(found, expected, strict=True):
        for name in row:  # What stands for bad images is one image: a rounding says which copy a text finds first.
            slack = 1 / 30 + 1e-4 if "text_to_image_recall" in name else 1e-4
            assert row[name] == pytest.approx(other[name], rel=1e-4, abs=slack), name


def test_what_is_bad_is_counted_and_listed_once_for_all(one: pathlib.Path, two: tuple[pathlib.Path, list[str]]) -> None:
    expected = (one / bad_data.FILE).read_text()
    assert (two[0] / bad_data.FILE).read_text() == expected
    lines = [json.loads(line) for line in expected.splitlines()]
    counts = collections.Counter(line["where"] for line in lines)
    assert counts["spoiled train"] > 20 and counts["spoiled validation[:30]"] == 6  # A fifth of 160, and of 30.
    assert {line["reason"] for line in lines} == {"truncated", "empty"}
    last = [row for row in tiny.rows(two[0]) if "loss" in row][-1]
    assert last["data/bad/truncated"] + last["data/bad/empty"] == last["data/replaced"] == counts["spoiled train"]
    assert len([line for line in two[1] if "others stand for them" in line]) == 1


def test_only_the_first_process_writes_and_speaks(two: tuple[pathlib.Path, list[str]]) -> None:
    workdir, lines = two
    assert len([*workdir.glob("events.out.tfevents.*")]) == 1
    assert {line.split()[0] for line in lines} <= {"[0]", "[1]"}
    assert any(line.startswith("[0] ") and "is finished" in line for line in lines)
    assert not [line for line in lines if line.startswith("[1] ") and "Gloo" not in line]
    assert json.loads((workdir / "result.json").read_text())["device"].startswith("2 x ")


def test_its_checkpoint_restores_in_one_process(one: pathlib.Path, two: tuple[pathlib.Path, list[str]]) -> None:
    expected, found = tiny.state(one), tiny.state(two[0])
    assert found.keys() == expected.keys()
    for name, leaf in found.items():  # The gradient of a key's bias is rounding alone, which Adam makes much of.
        np.testing.assert_allclose(
            leaf, expected[name], rtol=1e-3, atol=1e-3 if "qkv.bias" in name else 1e-4, err_msg=name
        )


def test_one_process_goes_on_where_two_stopped(one: pathlib.Path, two: tuple[pathlib.Path, list[str]]) -> None:
    workdir = shutil.copytree(two[0], one.with_name("moved"))
    shutil.rmtree(workdir / "checkpoints/10")
    done = tiny.run(["vitfm.main"], workdir, SPOILED)
    assert done.returncode == 0, done.stderr
    assert "going on from step 8" in done.stdout
    assert (workdir / bad_data.FILE).read_bytes() == (one / bad_data.FILE).read_bytes()
    assert [row["step"] for row in tiny.rows(workdir)] == [row["step"] for row in tiny.rows(one)]
    assert tiny.rows(workdir)[-2]["loss"] == pytest.approx(tiny.rows(one)[-2]["loss"], rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_stops_all_at_the_same_step(one: pathlib.Path, number: signal.Signals) -> None:
    workdir = one.with_name(f"stopped_{number}")
    endless = ["--config.total=100000", "--config.log_every=1", "--config.checkpoint.every=50%", "--config.evals={}"]
    with launched(workdir, *endless) as process:
        deadline = time.monotonic() + 600
        while not (workdir / "metrics.jsonl").is_file() or len(tiny.rows(workdir)) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 128 + number, output
    stopped = [line.split(" ", 1)[1] for line in output.splitlines() if "Stopped at step" in line]
    assert len(stopped) == 2
    assert stopped[0] == stopped[1]
    step = Checkpoints(workdir / "checkpoints").latest()
    assert f"step {step}," in stopped[0]
    assert tiny.state(workdir, step)["step"] == step


def test_a_process_that_dies_ends_the_others(one: pathlib.Path) -> None:
    with launched(one.with_name("dies"), "--config.total=100000", "--config.objective.name=tests.dying") as process:
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 128 + signal.SIGKILL, output


@pytest.mark.slow
def test_too_many_bad_examples_stop_all_at_the_same_step(one: pathlib.Path) -> None:
    workdir = one.with_name("too_many")
    with launched(workdir, SPOILED, "--config.data.max_bad=0.2", "--config.total=200", "--config.evals={}") as process:
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 2, output
    assert "examples of spoiled train can't be used" in output and "Step 63 is saved" in output
    assert Checkpoints(workdir / "checkpoints").latest() == 63  # A thousand examples were seen.


def test_a_mistake_is_said_by_every_process_and_ends_all(one: pathlib.Path) -> None:
    with launched(one.with_name("wrong"), "--config.optim.learning_rat=1") as process:
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 2
    assert output.count("did you mean 'learning_rate'?") >= 1
    assert "Traceback" not in output


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_read_contiguous_rows_of_the_same_batches(count: int) -> None:
    config = tiny.get_config().to_dict()["data"]
    whole = pipeline.make(**config).train_loader(batch_size=8, seed=3)
    parts = [dataclasses.replace(whole, process_index=i, process_count=count) for i in range(count)]
    streams = [part.batches(5) for part in parts]
    expected = next(whole.batches(5))
    found = [next(stream) for stream in streams]
    for name in expected:
        np.testing.assert_array_equal(np.concatenate([rows[name] for rows in found]), expected[name])
    assert all((part.batch_ids(5) == whole.batch_ids(5)).all() for part in parts)
    assert loading.REPLACED in expected
