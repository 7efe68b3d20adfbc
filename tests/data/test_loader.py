"""Batches are what the order says, whoever reads them; what can't be read is replaced, counted, or ends the run."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm.config import ConfigError, UserError
from vitfm.data import loader
from vitfm.data.bad import BadExample, Found
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

    broken: Mapping[int, Exception] = dataclasses.field(default_factory=dict)

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        if example["id"] in self.broken:
            raise self.broken[example["id"]]
        return {"id": np.int32(example["id"]), "draw": rng.random(2)}


def errors(broken: Sequence[int], reason: str = "corrupt") -> dict[int, Exception]:
    return {i: BadExample(reason, f"example {i} is broken") for i in broken}


def made(size: int = 23, batch_size: int = 4, seed: int = 0, broken: Sequence[int] = (), **options: Any) -> TrainLoader:
    return TrainLoader(Numbers(size), Load(errors(broken)), batch_size, seed, **options)


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


def test_what_cannot_be_read_is_replaced_and_told():
    ours, epochs = made(10, 5, broken=[4, 5, 9]), 6
    batches = first(ours.batches(), 2 * epochs)
    assert_same(first(ours.batches(), 2 * epochs), batches)
    stand_ins = set()
    for step, batch in enumerate(batches):
        wanted = ours.batch_ids(step)
        rows = [row for row, i in enumerate(wanted) if i in (4, 5, 9)]
        told = [
            (row, Found(wanted[row], f"numbers[{wanted[row]}]", "corrupt", f"example {wanted[row]} is broken"))
            for row in rows
        ]
        assert ours.replaced(step, batch[REPLACED]) == told
        good = np.setdiff1d(np.arange(5), rows)
        np.testing.assert_array_equal(batch["id"][good], wanted[good])
        stand_ins.update(batch["id"][rows])
        for row in rows:  # The first that can be read of those that have its row in later epochs.
            later = (ours.order[step * 5 + row + 10 * epoch] for epoch in itertools.count(1))
            assert batch["id"][row] == next(i for i in later if i not in (4, 5, 9))
    assert len(stand_ins) > 3  # Neighbours that are broken have different ones.
    clean = first(made(10, 5).batches(), 2 * epochs)  # The others are as if nothing were broken.
    for batch, plain in zip(batches, clean, strict=True):
        kept = ~batch[REPLACED].any(1)
        assert kept.any()
        np.testing.assert_array_equal(batch["draw"][kept], plain["draw"][kept])


def test_an_epoch_counts_each_broken_example_once():
    ours = made(40, 8, broken=range(0, 40, 3))
    told = [
        found.id
        for step, batch in enumerate(first(ours.batches(), 5))
        for _, found in ours.replaced(step, batch[REPLACED])
    ]
    assert sorted(told) == list(range(0, 40, 3))


def test_a_stand_in_is_of_the_same_process():
    """It has the same row of the batch, so that where its images lie on several hosts, it is at hand."""
    ours = made(23, 4, broken=[5])
    (position,) = (k for k in range(23) if ours.order[k] == 5)
    assert ours.example(position)["id"] == ours.order[position + 24]  # 24 is the first multiple of 4 beyond an epoch.


@pytest.mark.parametrize(
    "text",
    ["", "x" * 1000, "ä" * 200, "\udcff.jpg is gone", "a: b", "line\nline"],
    ids=["none", "long", "wide", "odd", "colon", "lines"],
)
def test_messages_travel_as_far_as_there_is_room(text: str):
    ours = TrainLoader(Numbers(2), Load({0: BadExample("missing", text)}), 2, 0)
    batch = first(ours.batches(), 1)[0]
    ((_, found),) = ours.replaced(0, batch[REPLACED])
    assert found.reason == "missing"
    assert text.encode(errors="backslashreplace").decode().startswith(found.message)
    assert len(found.message) >= min(len(text), 110)


def test_a_source_that_cannot_be_read_at_all_stops_the_run():
    mixed = errors(range(300), "depth") | errors(range(0, 300, 2), "truncated")
    with pytest.raises(
        ConfigError, match=r"100 examples in a row of numbers can't be used: \d+ (depth|truncated), \d+"
    ) as error:
        TrainLoader(Numbers(300), Load(mixed), 4, 0).example(0)
    message = str(error.value)
    assert message.count("is broken") == 3
    assert "depth: config.data.input.dtype = 'uint16'" in message and "truncated: files that end early" in message
    assert "missing:" not in message


def test_a_source_that_raises_is_unreadable_too(monkeypatch: pytest.MonkeyPatch):
    def fetch(self: Numbers, index: int) -> dict[str, Any]:
        if index == 2:
            raise ValueError("a broken file")
        return {"id": index}

    monkeypatch.setattr(Numbers, "__getitem__", fetch)
    ours = made(4)
    batch = first(ours.batches(), 1)[0]
    assert {0, 1, 3} == set(batch["id"])
    ((_, found),) = ours.replaced(0, batch[REPLACED])
    assert found == Found(2, "numbers[2]", "other", "a broken file")


def test_bugs_are_not_swallowed_and_name_the_example():
    with pytest.raises(KeyError, match="a bug") as error:
        TrainLoader(Numbers(4), Load(dict.fromkeys(range(4), KeyError("a bug"))), 2, 0).example(0)
    assert any("numbers[" in note for note in error.value.__notes__)


@pytest.mark.parametrize("options", [{}, {"threads": 1, "workers": 1}], ids=["threads", "workers"])
def test_what_is_no_fault_of_an_example_ends_the_run_in_words(options: dict[str, int]):
    """Where memory or file handles run out, what is replaced would depend on the weather."""
    ours = TrainLoader(Numbers(4), Load({2: OSError(24, "Too many open files")}), 4, 0, **options)
    with pytest.raises(UserError, match=r"numbers\[2\] of numbers: .*Too many open files.*not replaced"):
        first(ours.batches(), 1)


@dataclasses.dataclass(frozen=True)
class Deadly(Load):
    """Kills the worker that reads a certain example."""

    test: int = 0  # The process that is not to die.

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        if example["id"] == 7 and os.getpid() != self.test:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(example, rng)


@pytest.mark.timeout(120)
def test_a_worker_that_dies_ends_the_run_in_words():
    ours = TrainLoader(Numbers(100), Deadly(test=os.getpid()), 4, 0, threads=1, workers=2)
    with pytest.raises(
        UserError, match=r"config\.data\.workers = 2 processes .* died, exit code -9\. -9 is often .* memory"
    ):
        first(ours.batches(), 25)


def test_workers_share_memory():
    """Every array of a batch, so that no pixel goes through a pipe."""
    for leaf in first(made(threads=1, workers=1).batches(), 1)[0].values():
        assert leaf.shm is not None


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


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(1, 5), st.sampled_from([1, 2]))
def test_evaluation_has_zeros_for_what_cannot_be_read(size: int, broken: set[int], rows: int, processes: int):
    broken = {i for i in broken if i < size}
    told: list[Found] = []
    read = lambda index: evaluation_batches(
        Numbers(size),
        Load(errors(sorted(broken))),
        batch_size=rows * processes,
        process_index=index,
        process_count=processes,
        threads=2,
        unreadable=told.append,
    )
    if len(broken) == size:
        with pytest.raises(ConfigError, match=r"numbers: no example can be read; the first: example 0 is broken"):
            list(read(0))
        return
    parts = [list(read(index)) for index in range(processes)]
    batches = [{c: np.concatenate([part[c] for part in step]) for c in step[0]} for step in zip(*parts, strict=True)]
    valid = np.concatenate([batch["valid"] for batch in batches])
    ids = np.concatenate([batch["id"] for batch in batches])[valid]
    np.testing.assert_array_equal(ids, [0 if i in broken else i for i in range(size)])  # Each counts all the same.
    draws = np.concatenate([batch["draw"] for batch in batches])[valid]
    assert [i for i in range(size) if not draws[i].any()] == sorted(broken)
    assert sorted(found.id for found in told) == sorted(broken)  # Once each, padding or not.


def test_evaluation_refuses_what_cannot_be_read_where_nobody_is_told():
    with pytest.raises(BadExample, match="example 3 is broken"):
        list(evaluation_batches(Numbers(7), Load(errors([3])), batch_size=4))


def test_evaluation_reads_ahead_and_no_further():
    seen: list[int] = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Numbers):
        def __getitem__(self, index: int) -> dict[str, Any]:
            seen.append(index)
            return super().__getitem__(index)

    stream = evaluation_batches(Watched(100), Load(), batch_size=5, threads=2)
    next(stream)
    stream.close()
    assert len(seen) <= 15


def test_the_loader_is_what_workers_receive():
    """Workers get a copy: it must give what the original gives."""
    batches = loader._Batches(made(), 2)
    copy = cloudpickle.loads(cloudpickle.dumps(batches))
    assert_same([copy[k] for k in range(3)], [batches[k] for k in range(3)])
