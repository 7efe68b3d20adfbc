"""Classification counts what the logits get right, in any batches, and refuses classes that training did not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evals.fake import World
from vitfm.config import ConfigError
from vitfm.evals import classification

CLASSES = ("ant", "bee", "cow", "dog")
IMAGES = 11


def logits() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(IMAGES, len(CLASSES))).astype(np.float32)


def world(labels: Sequence[Any], multi_label: bool = False, devices: int = 1) -> World:
    """Images with these labels, whose logits are above."""
    examples = [{"image": i, "kind": label} for i, label in enumerate(labels)]
    made = World({"test": examples}, logits(), {}, devices)
    predict = {"logits": made.context.predict["embed_image"]}
    made.context = dataclasses.replace(made.context, predict=predict, classes=CLASSES, multi_label=multi_label)
    return made


SPEC = {"name": "classification", "source": "test", "label": "kind", "prefix": "p"}
INDICES = np.random.default_rng(4).integers(0, len(CLASSES), IMAGES).tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
@pytest.mark.parametrize("devices", [1, 4])
def test_every_image_counts_once_in_any_batches(batch_size: int, devices: int):
    w = world([CLASSES[k] for k in INDICES], devices=devices)
    found = w.evaluate(**SPEC, top=(1, 2, 4), batch_size=batch_size)
    assert (w.asked == 1).all()
    assert {size % devices for size in w.batches} == {0}
    ranks = [sorted(row, reverse=True).index(row[k]) for row, k in zip(logits().tolist(), INDICES, strict=True)]
    expected = {f"p/classification/top{k}": np.mean([rank < k for rank in ranks]) for k in (1, 2)}
    assert found == pytest.approx(expected)
    assert 0 < found["p/classification/top1"] < found["p/classification/top2"] < 1


def test_names_and_indices_are_the_same():
    named, numbered = world([CLASSES[k] for k in INDICES]), world(INDICES)
    assert named.evaluate(**SPEC) == numbered.evaluate(**SPEC)


def looped_average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Precision at each threshold times what recall gains there."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        gained = right[chosen].sum() / right.sum()
        total += (gained - recall) * right[chosen].mean()
        recall = gained
    return total


@given(st.integers(1, 12), st.integers(1, 4), st.integers(2, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_mean_average_precision_equals_a_loop_with_ties(images: int, classes: int, levels: int, seed: int):
    random = np.random.default_rng(seed)
    scores, right = random.integers(0, levels, (images, classes)) / levels, random.random((images, classes)) < 0.4
    right[0, 0] = True
    expected = [looped_average_precision(scores[:, k], right[:, k]) for k in range(classes) if right[:, k].any()]
    assert classification.mean_average_precision(scores, right) == pytest.approx(np.mean(expected))


def test_mean_average_precision_of_what_says_all_or_nothing():
    right = np.array([[True, False], [False, True], [False, True], [False, False]])
    assert classification.mean_average_precision(right.astype(float), right) == 1
    for scores in (np.zeros((4, 2)), np.full((4, 2), np.nan)):
        assert classification.mean_average_precision(scores, right) == pytest.approx((1 / 4 + 2 / 4) / 2)


def test_images_of_several_classes():
    labels = [tuple(CLASSES[k] for k in range(4) if (i >> k) & 1) for i in range(IMAGES)]  # The first has none.
    right = np.array([[(i >> k) & 1 for k in range(4)] for i in range(IMAGES)], bool)
    found = world(labels, multi_label=True).evaluate(**SPEC, pictures=2)
    expected = np.mean([looped_average_precision(logits()[:, k], right[:, k]) for k in range(4)])
    assert found.pop("p/classification/mean_average_precision") == pytest.approx(expected)
    assert found.pop("p/classification").dtype == np.uint8
    assert not found


def test_pictures_show_the_classes():
    picture = world(INDICES).evaluate(**SPEC, pictures=3)["p/classification"]
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3


@pytest.mark.parametrize(
    ("labels", "multi_label", "change", "message"),
    [
        (["ant", "cat", "hen"], False, {}, r"evals\.test.*2 classes.* 'cat', are none of the 4.*such as 'ant'"),
        ([0, 4], False, {}, "1 classes of the images, such as 4, are none of the 4"),
        ([-1, 0], False, {}, "such as -1, are none of the 4"),
        ([0.5, 1.0], False, {}, r"such as 0\.5, are none of the 4"),
        ([("ant", "hen")], True, {}, "such as 'hen', are none of the 4"),
        ([("ant", "bee")], False, {}, r"several classes, such as \('ant', 'bee'\).*trained with one class"),
        (["ant"], True, {}, r"one class, such as 'ant'.*trained with several classes"),
        (["ant"], False, {"label": "kidn"}, r"config\.evals\.test.*'kidn': did you mean 'kind'"),
        (["ant"], False, {"batch_size": 0}, r"config\.evals\.test\.batch_size = 0"),
        (["ant"], False, {"topk": 1}, "did you mean 'top'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_computed(
    labels: list[Any], multi_label: bool, change: dict[str, Any], message: str
):
    w = world(labels, multi_label)
    with pytest.raises(ConfigError, match=message):
        w.evaluate(**{**SPEC, **change})
    assert not w.batches


def test_a_model_without_logits_is_refused():
    w = world(["ant"])
    w.context = dataclasses.replace(w.context, predict={"embed_image": None})
    with pytest.raises(ConfigError, match="'classification' needs logits.*offers embed_image"):
        w.evaluate(**SPEC)
