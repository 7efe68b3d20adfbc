"""Which examples a step has is a function of seed and step: not of workers, hosts, history, or the source's size."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import order as benchmark
from tests.data.test_loader import assert_same, first
from vitfm.data import pipeline
from vitfm.data.loader import TrainLoader

BATCH, IMAGES = 8, 37  # No epoch ends with a batch.
STEPS = 14  # Three epochs.


@dataclasses.dataclass(frozen=True)
class Fake:
    """A source that could not be listed, and counts what is read of it."""

    size: int
    read: list[int] = dataclasses.field(default_factory=list)
    name: str = "fake"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert 0 <= index < self.size
        self.read.append(index)
        return {"id": index}


def load(example: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"id": np.int64(example["id"])}


def fake(size: int, batch_size: int = BATCH, seed: int = 0, **options: Any) -> TrainLoader:
    return TrainLoader(Fake(size), load, batch_size, seed, **options)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> TrainLoader:
    """Of a folder of images, some of which are none."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(IMAGES):
        PIL.Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    for i in (3, 4, 20):
        (folder / f"{i:02}.png").write_bytes(b"<html>")
    columns = {"which": "key"}
    data = pipeline.make(source=f"folder:{folder}", image_size=16, crop={"rotation": 20.0}, columns=columns)
    return data.train_loader(batch_size=BATCH, seed=5)


@pytest.fixture(scope="module")
def whole(loader: TrainLoader) -> list[dict[str, np.ndarray]]:
    """The batches that one process reads in one thread."""
    return first(dataclasses.replace(loader, threads=1).batches(), STEPS)


def read(loader: TrainLoader, hosts: int, workers: int, start: int, steps: int) -> list[dict[str, np.ndarray]]:
    """The global batches that so many hosts read, each with so many workers."""
    options = {"process_count": hosts, "workers": workers, "threads": 1 if workers else 2}
    parts = [dataclasses.replace(loader, process_index=index, **options) for index in range(hosts)]
    for part in parts:
        for step in range(start, start + steps):
            np.testing.assert_array_equal(part.batch_ids(step), loader.batch_ids(step))
    rows = zip(*(first(part.batches(start), steps) for part in parts), strict=True)
    return [{name: np.concatenate([own[name] for own in step]) for name in step[0]} for step in rows]


SOME, ALL = [(1, 0), (2, 0), (4, 0), (1, 1), (2, 2)], [(hosts, workers) for hosts in (1, 2, 4) for workers in (0, 1, 2)]


@pytest.mark.parametrize(
    ("hosts", "workers"),
    [pytest.param(*case, marks=() if case in SOME else pytest.mark.slow) for case in ALL],
)
def test_hosts_and_workers_change_no_batch(
    loader: TrainLoader, whole: Sequence[dict[str, np.ndarray]], hosts: int, workers: int
):
    start = {1: 0, 2: 3}.get(workers, 0)  # In the middle of an epoch, too.
    assert_same(read(loader, hosts, workers, start, STEPS - start), whole[start:])


def test_other_hosts_go_on_where_some_stopped(loader: TrainLoader, whole: Sequence[dict[str, np.ndarray]]):
    parts = [read(loader, *case) for case in ((1, 0, 0, 3), (4, 0, 3, 4), (2, 0, 7, 5), (1, 1, 12, 2))]
    assert_same([batch for part in parts for batch in part], whole)


def test_every_image_comes_once_an_epoch(loader: TrainLoader, whole: Sequence[dict[str, np.ndarray]]):
    assert loader.epoch == IMAGES
    ids = np.concatenate([loader.batch_ids(step) for step in range(STEPS)])[: 3 * IMAGES].reshape(3, IMAGES)
    assert all(set(epoch) == set(range(IMAGES)) for epoch in ids.tolist())
    assert len({tuple(epoch) for epoch in ids.tolist()}) == 3
    which = np.concatenate([batch["which"] for batch in whole])[: 3 * IMAGES].reshape(3, IMAGES)
    bad = np.isin(ids, (3, 4, 20))
    assert bad.sum() == 9
    assert all(len(set(epoch[~own])) == IMAGES - 3 for epoch, own in zip(which, bad, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_an_epoch_is_a_bijection(size: int, seed: int, epoch: int):
    order = fake(size, seed=seed).order
    assert sorted(order[epoch * size + k] for k in range(size)) == list(range(size))


@settings(max_examples=30, deadline=None)
@given(st.integers(3000, 2**32), st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.floats(0, 1))
def test_a_large_epoch_is_one_wherever_it_is_looked_at(size: int, seed: int, epoch: int, where: float):
    """No two places of an epoch have the same example: neither neighbours nor those far apart."""
    order = fake(size, seed=seed).order
    begin = int(where * (size - 500))
    places = {*range(begin, begin + 500), *np.linspace(0, size - 1, 500).astype(int).tolist()}
    found = [order[epoch * size + place] for place in places]
    assert len(set(found)) == len(places)
    assert min(found) >= 0 and max(found) < size


def test_a_thousand_million_examples_cost_nothing():
    tracemalloc.start()
    loader = fake(10**9, batch_size=64, threads=1)
    for step in (0, 10**6, 10**9, 10**12):  # Four thousand epochs of sixteen million steps each.
        ids = loader.batch_ids(step)
        assert len(set(ids)) == 64 and ids.max() > 10**8
        (batch,) = first(loader.batches(step), 1)
        np.testing.assert_array_equal(batch["id"], ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e6
    assert len(loader.source.read) <= 4 * 4 * 64  # Those of the step, and what is read ahead: seeking reads nothing.


def test_memory_does_not_grow_with_the_steps():
    loader = fake(10**9, batch_size=16, threads=1)
    for part in (100, 300):
        tracemalloc.start()
        for position in range(part * 16):
            loader.order[position * 7919]
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 1e5


def test_what_it_costs_is_measured_by_a_benchmark(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    benchmark.main(["--repeats=1", f"--out={tmp_path / 'order.json'}"])
    assert "1,000,000,000 examples" in capsys.readouterr().out
    sizes = json.loads((tmp_path / "order.json").read_text())["sizes"]
    assert all(own["index"][0] > 0 and own["seek"][0] > 0 for own in sizes.values())
