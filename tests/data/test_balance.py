"""Balanced batches: so many classes, so many images of each, as a function of seed and step."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_loader import Load, assert_same, errors, first
from vitfm.config import ConfigError
from vitfm.data import balance, pipeline
from vitfm.data.labels import Labels
from vitfm.data.loader import TrainLoader


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Examples with a class each."""

    labels: tuple[int, ...]
    name: str = "labelled"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": range(len(self))[index], "label": self.labels[index]}


def shared(sizes: Sequence[int], images: int, batch_size: int, seed: int = 0) -> tuple[Labelled, balance.Balanced]:
    """A source with classes of these sizes, mixed, and its order."""
    label = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    source = Labelled(tuple(map(int, label)))
    labels = Labels("label", tuple(map(str, range(len(sizes)))), False)
    return source, balance.make(images=images, labels=labels)(source, batch_size, seed)


def made(seed: int = 0, broken: Sequence[int] = (), **options: Any) -> TrainLoader:
    source, order = shared([5, 3, 9, 4, 4, 1, 7], 3, 12, seed)
    return TrainLoader(source, Load(errors(broken)), 12, seed, balanced=order, **options)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.integers(1, 4), st.integers(0, 2**31 - 1), st.data())
def test_every_batch_has_its_classes_and_images(sizes: list[int], images: int, seed: int, data: Any):
    classes = data.draw(st.integers(1, len(sizes)))
    source, order = shared(sizes, images, classes * images, seed)
    for step in range(2 * len(sizes)):
        ids = np.array([order[step * classes * images + row] for row in range(classes * images)])
        label = np.array(source.labels)[ids].reshape(classes, images)
        assert (label == label[:, :1]).all()
        assert len(set(label[:, 0])) == classes
        for block in ids.reshape(classes, images):  # As many different ones as there are.
            assert len(set(block)) == min(images, sizes[source.labels[block[0]]])


def test_all_images_of_all_classes_come():
    source, order = shared([6, 6, 4, 4], 2, 8)
    rounds = [np.array([order[step * 8 + row] for row in range(8)]) for step in range(6)]
    assert set(np.concatenate(rounds[:3])) == set(range(20))  # Three rounds of two are the largest classes.
    counts = np.bincount(np.array(source.labels)[np.concatenate(rounds)])
    np.testing.assert_array_equal(counts, [12] * 4)  # Small classes as often as large ones.


def test_classes_left_over_take_turns():
    source, order = shared([2] * 5, 2, 4)
    chosen = [source.labels[order[2 * slot]] for slot in range(80)]
    assert max(np.bincount(chosen, minlength=5)) - min(np.bincount(chosen, minlength=5)) <= 16
    assert min(np.bincount(chosen, minlength=5)) > 8


def test_labels_are_read_at_once_and_those_without_come_not(monkeypatch: pytest.MonkeyPatch):
    source = Labelled((0, None, 1, 0, 1, None))
    monkeypatch.setattr(Labelled, "column", lambda self, feature: self.labels, raising=False)
    made = balance.make(images=2, labels=Labels("label", ("a", "b"), False))
    order = made(source, 4, 0)
    assert {order[position] for position in range(40)} == {0, 2, 3, 4}
    with pytest.raises(ConfigError, match=r"at most 0 classes"):
        made(Labelled((None, None)), 4, 0)


def test_order_differs_by_round_and_by_seed():
    ids = lambda seed, step: list(made(seed).batch_ids(step))
    batches = [ids(0, 0), ids(0, 1), ids(0, 2), ids(1, 0)]
    assert all(a != b for a, b in itertools.combinations(batches, 2))
    assert ids(0, 2) == ids(0, 2)


def test_starting_late_processes_and_workers_change_nothing():
    whole = first(made(broken=[5]).batches(), 6)
    for step, batch in enumerate(first(made().batches(), 6)):
        np.testing.assert_array_equal(batch["id"], made().batch_ids(step))
    assert_same(first(made(broken=[5]).batches(4), 2), whole[4:])
    assert_same(first(made(broken=[5], threads=1, workers=1).batches(4), 2), whole[4:])
    parts = [first(made(broken=[5], process_index=i, process_count=2).batches(), 6) for i in range(2)]
    together = [{c: np.concatenate([rows[c] for rows in step]) for c in step[0]} for step in zip(*parts, strict=True)]
    assert_same(together, whole)


def test_a_recipe_asks_for_it():
    data = pipeline.make(
        source="tfds:emoji:train", image_size=16, label={"feature": "group"}, balance={"images": 4}, alpha=True
    )
    batch = next(data.train_loader(batch_size=16, seed=0).batches())
    label = batch["label"].reshape(4, 4)
    assert (label == label[:, :1]).all() and len(set(label[:, 0])) == 4


@pytest.mark.parametrize(
    ("options", "batch_size", "message"),
    [
        ({"label": None}, 16, r"balance shares a batch out among classes: config\.data\.label has to give each image"),
        ({"label": {"feature": "tags"}}, 16, "has to give each image one"),
        ({"balance": {"images": 0}}, 16, r"balance\.images = 0 must be at least 1"),
        ({}, 18, r"batch_size = 18 with config\.data\.balance\.images = 4 must divide into at most \d+ classes"),
        ({}, 4000, "must divide into at most"),
        ({"balance": {"image": 4}}, 16, r"Unknown key config\.data\.balance\.image.*images"),
    ],
)
def test_what_cannot_be_is_refused(options: Mapping[str, Any], batch_size: int, message: str):
    given = {"source": "tfds:emoji:train", "label": {"feature": "group"}, "balance": {"images": 4}, **options}
    with pytest.raises(ConfigError, match=message):
        pipeline.make(**given).train_loader(batch_size=batch_size, seed=0)
