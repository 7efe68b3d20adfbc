"""Order is a function of seed and step: of neither processes, threads, workers nor history."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import loader
from vitfm.data.loader import REPLACED, TrainLoader, evaluation_batches


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A source of so many examples."""

    size: int
    name: str = "numbers"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": range(self.size)[index]}


@dataclasses.dataclass(frozen=True)
class Load:
    """The example's number and a draw; broken ones can't be read."""

    broken: frozenset[int] = frozenset()

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        if example["id"] in self.broken:
            raise ValueError(f"example {example['id']} is broken")
        return {"id": np.int32(example["id"]), "draw": rng.random(2)}


def made(size: int = 23, batch_size: int = 4, seed: int = 0, broken: Sequence[int] = (), **options: Any) -> TrainLoader:
    return TrainLoader(Numbers(size), Load(frozenset(broken)), batch_size, seed, **options)


def first(stream: Any, count: int) -> list[dict[str, np.ndarray]]:
    batches = list(itertools.islice(stream, count))
    stream.close()
    return batches


def assert_same(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for column in a:
            np.testing.assert_array_equal(a[column], b[column], err_msg=column)


def test_batches_are_those_of_batch_ids():
    stream = first(made().batches(), 9)
    for step, batch in enumerate(stream):
        np.testing.assert_array_equal(batch["id"], made().batch_ids(step))
        assert batch["draw"].shape == (4, 2)
        assert not batch[REPLACED].any()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**31 - 1))
def test_every_example_comes_once_an_epoch(size: int, batch_size: int, seed: int):
    ours = made(size, batch_size, seed)
    steps = -(-3 * size // batch_size)
    order = np.concatenate([ours.batch_ids(step) for step in range(steps)])[: 3 * size].reshape(3, size)
    np.testing.assert_array_equal(np.sort(order), np.broadcast_to(np.arange(size), (3, size)))


def test_order_differs_by_epoch_and_by_seed_and_is_shuffled():
    order = lambda seed: made(100, 100, seed).batch_ids
    epochs = [order(0)(0), order(0)(1), order(0)(2), order(1)(0), np.arange(100)]
    for a, b in itertools.combinations(epochs, 2):
        assert (a == b).mean() < 0.1
    np.testing.assert_array_equal(order(0)(1), order(0)(1))


def test_draws_differ_by_epoch_and_by_seed():
    batches = first(made(4).batches(), 3) + first(made(4, seed=1).batches(), 1)
    assert len({draw for batch in batches for draw in batch["draw"].ravel()}) == 4 * 4 * 2


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_read_the_same_batch(processes: int):
    whole = first(made(batch_size=8, broken=[3]).batches(2), 3)
    parts = [
        first(made(batch_size=8, broken=[3], process_index=i, process_count=processes).batches(2), 3)
        for i in range(processes)
    ]
    together = [{c: np.concatenate([rows[c] for rows in step]) for c in step[0]} for step in zip(*parts, strict=True)]
    assert_same(together, whole)


def test_starting_late_is_going_on():
    whole = first(made(broken=[5, 6]).batches(), 20)
    for start in (1, 7, 19):
        assert_same(first(made(broken=[5, 6]).batches(start), 20 - start), whole[start:])


def test_far_steps_cost_nothing():
    (batch,) = first(made().batches(10**9), 1)
    np.testing.assert_array_equal(batch["id"], made().batch_ids(10**9))


@pytest.mark.parametrize("options", [{"threads": 4}, {"threads": 1, "workers": 1}], ids=["threads", "workers"])
def test_threads_and_workers_change_nothing(options: dict[str, int]):
    one = first(made(broken=[5], threads=1).batches(3), 8)
    assert_same(first(made(broken=[5], **options).batches(3), 8), one)


def test_the_unreadable_are_replaced_and_counted():
    broken = {4, 5, 9}
    ours, epochs = made(10, 5, broken=sorted(broken)), 6
    batches = first(ours.batches(), 2 * epochs)
    again = first(ours.batches(), 2 * epochs)
    assert_same(again, batches)
    for step, batch in enumerate(batches):
        wanted = ours.batch_ids(step)
        following = {4: 6, 5: 6, 9: 0}  # The next that can be read, from the end to the beginning.
        np.testing.assert_array_equal(batch["id"], [following.get(i, i) for i in wanted])
        np.testing.assert_array_equal(batch[REPLACED], [{4: 2, 5: 1, 9: 1}.get(i, 0) for i in wanted])
    clean = first(made(10, 5).batches(), 2 * epochs)  # The others are as if nothing were broken.
    for batch, plain in zip(batches, clean, strict=True):
        kept = batch[REPLACED] == 0
        assert kept.any()
        np.testing.assert_array_equal(batch["draw"][kept], plain["draw"][kept])


def test_a_source_that_cannot_be_read_at_all_stops_the_run():
    ours = made(300, broken=range(300))
    with pytest.raises(ConfigError, match=r"100 examples in a row of numbers can't be read; the last: example \d+ is"):
        ours.example(0)


def test_a_source_that_raises_is_unreadable_too(monkeypatch: pytest.MonkeyPatch):
    def fetch(self: Numbers, index: int) -> dict[str, Any]:
        if index == 2:
            raise ValueError("a broken file")
        return {"id": index}

    monkeypatch.setattr(Numbers, "__getitem__", fetch)
    batch = first(made(4).batches(), 1)[0]
    assert sorted(batch["id"]) == [0, 1, 3, 3]
    assert batch[REPLACED].sum() == 1


def test_other_errors_are_not_swallowed():
    def load(example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        TrainLoader(Numbers(4), load, 2, 0).example(0)


def test_batches_that_do_not_divide_among_processes_are_refused():
    with pytest.raises(ConfigError, match=r"batch_size = 6 does not divide among 4 processes"):
        made(batch_size=6, process_count=4)
    with pytest.raises(ConfigError, match=r"batch_size = 6 does not divide among 4 processes"):
        next(evaluation_batches(Numbers(5), Load(), batch_size=6, process_count=4))


@given(st.integers(0, 50), st.integers(1, 6), st.sampled_from([1, 2, 4]))
def test_evaluation_counts_every_example_once(size: int, rows: int, processes: int):
    read = lambda index: evaluation_batches(
        Numbers(size), Load(), batch_size=rows * processes, process_index=index, process_count=processes
    )
    parts = [list(read(index)) for index in range(processes)]
    assert len({len(part) for part in parts}) == 1  # All processes make as many steps.
    batches = [{c: np.concatenate([part[c] for part in step]) for c in step[0]} for step in zip(*parts, strict=True)]
    assert all(batch["id"].shape == batch["valid"].shape == (rows * processes,) for batch in batches)
    counted = [i for batch in batches for i in batch["id"][batch["valid"]]]
    assert counted == list(range(size))
    assert len(batches) == -(-size // (rows * processes))


def test_evaluation_draws_nothing():
    first_time, again = (list(evaluation_batches(Numbers(7), Load(), batch_size=4)) for _ in range(2))
    assert_same(first_time, again)


def test_the_loader_is_what_workers_receive():
    """Workers get a copy: it must give what the original gives."""
    examples = loader._Examples(made(), 2)
    copy = cloudpickle.loads(cloudpickle.dumps(examples))
    assert_same([copy[k] for k in range(12)], [examples[k] for k in range(12)])
