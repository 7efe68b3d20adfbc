"""A folder with two hundred hostile files among a thousand trains to the end, counts them by reason, and says which.

The same examples come on a second run, after an interruption and with worker processes.
"""

from __future__ import annotations

import collections
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
import pytest

from tests import tiny
from tests.data import broken
from vitfm import evaluate, interrupt, train_lib
from vitfm.bad_data import FILE, TooManyBad
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import UserError
from vitfm.data import loader as loading
from vitfm.data import pipeline
from vitfm.data.bad import REASONS, counted

SIZE, BATCH = 1000, 40
STEPS = SIZE // BATCH  # An epoch.


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, str | None]]:
    """The folder, and why each of its files is bad: None for images."""
    folder = tmp_path_factory.mktemp("hostile") / "images"
    expected = broken.write(folder, seed=0)
    rng = np.random.default_rng(1)
    for i in range(SIZE - len(expected)):
        name = f"{i * 7919 % SIZE:03}_fine.jpg"  # Among the others, not behind them.
        (folder / name).write_bytes(broken.encoded(broken.picture(rng), "JPEG"))
        expected[name] = None
    assert len(expected) == SIZE
    return folder, expected


def epoch(folder: pathlib.Path, **options: Any) -> tuple[list[dict[str, np.ndarray]], dict[str, str]]:
    """The batches of an epoch and key -> reason of what was replaced in it."""
    data = pipeline.make(source=f"folder:{folder}", image_size=32, **options)
    loader = data.train_loader(batch_size=BATCH, seed=3)
    stream = loader.batches()
    batches, found = [], []
    for step in range(STEPS):
        batches.append({name: np.array(rows) for name, rows in next(stream).items()})
        found += [own for _, own in loader.replaced(step, batches[-1][loading.REPLACED])]
    stream.close()
    assert len({own.key for own in found}) == len(found)
    return batches, {own.key: own.reason for own in found}


def test_an_epoch_replaces_exactly_what_is_bad(images: tuple[pathlib.Path, dict[str, str | None]]) -> None:
    folder, expected = images
    batches, found = epoch(folder)
    assert found == {name: reason for name, reason in expected.items() if reason}
    for options in ({"threads": 1}, {"threads": 1, "workers": 2}):
        again, same = epoch(folder, **options)
        assert same == found
        for one, other in zip(batches, again, strict=True):
            np.testing.assert_array_equal(one["image"], other["image"])
    assert all(batch["image"].shape == (BATCH, 32, 32, 3) for batch in batches)


def recipe(folder: pathlib.Path, **data: Any) -> ml_collections.ConfigDict:
    """A small MAE, for two epochs, and pictures of other images."""
    heldout = f"folder:{folder.with_name('heldout')}"
    return ml_collections.ConfigDict(
        {
            "total": 2 * STEPS,
            "batch_size": BATCH,
            "objective": {
                "name": "mae",
                "model": {"patch_size": 16, "hidden_dim": 16, "depth": 1, "num_heads": 2},
                "decoder": {"hidden_dim": 16, "depth": 1, "num_heads": 2},
            },
            "data": {"source": f"folder:{folder}", "image_size": 32, **data},
            "log_every": 10,
            "checkpoint": {"every": 20},
            "evals": {
                "look": {"name": "reconstruction", "source": heldout, "prefix": "look", "every": 20, "count": 20}
            },
            "compile_cache": str(folder.with_name("compiled")),
        }
    )


def listed(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / FILE).read_text().splitlines()]


@pytest.fixture(scope="module")
def run(images: tuple[pathlib.Path, dict[str, str | None]]) -> pathlib.Path:
    """The workdir of a run that nothing stopped."""
    folder, expected = images
    (folder.with_name("heldout")).mkdir()
    for name in [*expected][:10] + [*expected][-10:]:  # Truncated ones, and those that are fine.
        shutil.copy(folder / name, folder.with_name("heldout") / name)
    train_lib.train(recipe(folder, max_bad=0.5), str(folder.with_name("run")))
    return folder.with_name("run")


@pytest.mark.slow
def test_a_run_finishes_with_exact_counts_and_a_list(
    images: tuple[pathlib.Path, dict[str, str | None]], run: pathlib.Path
) -> None:
    folder, expected = images
    bad = {name: reason for name, reason in expected.items() if reason}
    total = collections.Counter(bad.values())
    rows = [row for row in tiny.rows(run) if "loss" in row]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50]
    assert {name: rows[-1][f"data/bad/{name}"] for name in total} == {name: 2 * count for name, count in total.items()}
    assert [name for name in rows[-1] if name.startswith("data/bad/")] == [
        f"data/bad/{name}" for name in REASONS if name in total
    ]
    assert rows[-1]["data/replaced"] == 2 * total.total()
    assert all(np.isfinite(row["loss"]) for row in rows)
    lines = [line for line in listed(run) if line["where"] == str(folder)]
    assert {line["key"]: line["reason"] for line in lines} == bad
    assert len(lines) == len(bad) and all(line["message"] for line in lines)
    order = pipeline.make(**recipe(folder).data.to_dict()).train_loader(batch_size=BATCH, seed=0)
    for line in lines:
        assert line["id"] in order.batch_ids(line["step"] - 1)
        assert line["step"] <= STEPS


@pytest.mark.slow
def test_what_is_evaluated_is_listed_and_told_once(run: pathlib.Path) -> None:
    heldout = str(run.with_name("heldout"))
    lines = [line for line in listed(run) if line["where"] == heldout]
    assert {line["step"] for line in lines} == {20}
    assert {line["reason"] for line in lines} == {"truncated"}
    assert len(lines) == len({line["key"] for line in lines}) == 10


@pytest.mark.slow
def test_too_many_stop_a_run_which_goes_on_as_if_it_had_not_been_stopped(
    images: tuple[pathlib.Path, dict[str, str | None]],
    run: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, expected = images
    workdir = run.with_name("stopped")
    with pytest.raises(TooManyBad) as stopped:
        train_lib.train(recipe(folder, max_bad=0.05), str(workdir))
    message = str(stopped.value)
    bad = sum(map(bool, expected.values()))
    assert f"{bad} of 1,000 examples of {folder} can't be used. {bad / 1000:.1%} is more than" in message
    assert f"config.data.max_bad = 0.05: {counted(collections.Counter(filter(None, expected.values())))}." in message
    assert "config.data.input.max_pixels" in message and "Step 25 is saved" in message
    assert Checkpoints(workdir / "checkpoints").latest() == STEPS
    assert len([line for line in listed(workdir) if line["where"] == str(folder)]) == bad
    told = capsys.readouterr().out
    assert told.count("training examples up to step 10 can't be used") == 1
    assert (
        told.count(
            f"images of {folder.with_name('heldout')} can't be read and are evaluated as black ones: 10 truncated"
        )
        == 1
    )

    received, batches = interrupt.Signals.received, loading.TrainLoader.batches
    monkeypatch.setattr(interrupt.Signals, "received", lambda self, step: 15 if step == 37 else received(self, step))
    with pytest.raises(interrupt.Interrupted):
        train_lib.train(recipe(folder, max_bad=0.5, workers=2, threads=1), str(workdir))
    monkeypatch.undo()

    def dying(self: loading.TrainLoader, first: int) -> Iterator[Any]:
        yield from itertools.islice(batches(self, first), 6)
        raise UserError("The disk is gone.")

    monkeypatch.setattr(loading.TrainLoader, "batches", dying)
    with pytest.raises(UserError, match="The disk is gone"):
        train_lib.train(recipe(folder, max_bad=0.5), str(workdir))
    assert Checkpoints(workdir / "checkpoints").latest() == 37 + 6  # All there was is saved.
    monkeypatch.undo()
    train_lib.train(recipe(folder, max_bad=0.5), str(workdir))
    assert (workdir / FILE).read_bytes() == (run / FILE).read_bytes()
    assert tiny.rows(workdir) == tiny.rows(run)


@pytest.mark.slow
def test_the_evaluation_of_a_finished_run_adds_to_its_list(
    images: tuple[pathlib.Path, dict[str, str | None]], run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, other = shutil.copytree(run, run.with_name("evaluated")), run.with_name("other")
    other.mkdir()
    bad = next(name for name, reason in images[1].items() if reason == "empty")
    for i, name in enumerate([bad, *[*images[1]][-7:]]):
        shutil.copy(images[0] / name, other / f"{i}.jpg")
    evaluate.evaluate(
        str(workdir), ["look"], dict.fromkeys(("train", "test", "label")), [("look.source", f"folder:{other}")]
    )
    *before, added = listed(workdir)
    assert before == listed(run)
    line = {"where": str(other), "key": "0.jpg", "reason": "empty", "message": "0 bytes.", "step": 2 * STEPS}
    assert added == line
    assert f"images of {other} can't be read and are evaluated as black ones: 1 empty" in capsys.readouterr().out
