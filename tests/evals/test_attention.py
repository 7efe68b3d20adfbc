"""Attention is drawn over the images it belongs to, head by head, patch by patch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.evals.fake import World
from vitfm.config import ConfigError
from vitfm.evals import attention
from vitfm.metrics import attention_maps, pictures

SPEC = {"name": "attention", "source": "test", "prefix": "p"}
IMAGES, HEADS = 9, 3


def world(devices: int = 1, queries: int = 1) -> World:
    maps = np.random.default_rng(0).uniform(size=(IMAGES, HEADS, queries, 2, 4)).astype(np.float32)
    made = World({"test": [{"image": number} for number in range(IMAGES)]}, maps, {}, devices)
    predict = {"attention": made.context.predict["embed_image"]}
    made.context = dataclasses.replace(made.context, predict=predict, picture=picture)
    return made


def picture(example: Mapping[str, Any]) -> np.ndarray:
    return np.random.default_rng(example["image"]).integers(0, 256, (20, 40, 3), np.uint8)


@pytest.mark.parametrize(("devices", "queries"), [(1, 1), (4, 1), (1, 8)])
def test_rows_are_images_and_columns_heads(devices: int, queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    monkeypatch.setattr(pictures, "image_rows", lambda titles, rows: drawn.update(titles=titles, rows=rows))
    w = world(devices, queries)
    assert [*w.evaluate(**SPEC, count=4)] == ["p/attention", "p/attention/entropy"]
    chosen = [0, 2, 5, 8]  # Spread evenly, both ends among them.
    np.testing.assert_array_equal(np.flatnonzero(w.asked), chosen)
    assert {size % devices for size in w.batches} == {0}
    assert drawn["titles"] == ("image", "mean", "head 1", "head 2", "head 3")
    assert len(drawn["rows"]) == 4
    for number, row in zip(chosen, drawn["rows"], strict=True):
        seen = attention_maps.centre(picture({"image": number}))
        heads = w.context.predict["attention"]({}, np.array([number]))[0].mean(1)
        np.testing.assert_array_equal(row[0], seen)
        np.testing.assert_array_equal(row[1], attention_maps.overlay(seen, heads.mean(0)))
        for column, head in zip(row[2:], heads, strict=True):
            np.testing.assert_array_equal(column, attention_maps.overlay(seen, head))


def test_entropy_is_1_for_equal_attention_and_0_for_one_patch() -> None:
    assert attention.evenness(np.full((2, 3, 4, 5), 0.05)) == pytest.approx(1)
    one = np.zeros((2, 3, 4, 5))
    one[..., 1, 2] = 0.3  # What is left is the class token's own.
    assert attention.evenness(one) == 0
    assert attention.evenness(np.stack([np.full((3, 4, 5), 0.05), one[0]])) == pytest.approx(0.5)


def test_entropy_is_that_of_each_query() -> None:
    looks = np.eye(4).reshape(1, 1, 4, 2, 2)  # Every patch looks at itself: evenly on average, at one patch each.
    assert attention.evenness(looks) == 0
    assert attention.evenness(looks.mean(2)) == pytest.approx(1)


def test_it_is_a_picture() -> None:
    found = world().evaluate(**SPEC)["p/attention"]
    assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[-1] == 3
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 100


def test_the_brightest_patch_is_where_attention_is_highest() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    weights = np.array([[0.0, 0.1], [0.4, 0.2]], np.float32)
    drawn = attention_maps.overlay(grey, weights).astype(int)
    corners = [drawn[16, 16], drawn[16, 48], drawn[48, 48], drawn[48, 16]]
    brightness = [corner.sum() for corner in corners]
    assert brightness == sorted(brightness) and len(set(brightness)) == 4
    for top in (0, 32):  # Every patch is one colour, to its edge.
        for left in (0, 32):
            assert len(np.unique(drawn[top : top + 32, left : left + 32].reshape(-1, 3), axis=0)) == 1
    np.testing.assert_array_equal(attention_maps.overlay(grey, 7 * weights), drawn)
    assert attention_maps.overlay(grey, 0 * weights).std((0, 1)).max() == 0


def test_the_model_sees_the_middle() -> None:
    image = np.zeros((300, 500, 3), np.uint8)
    image[:, 100:400] = 200
    assert attention_maps.centre(image).shape == (300, 300, 3)
    assert (attention_maps.centre(image) == 200).all()
    assert attention_maps.centre(image[:20, :90]).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"count": 0}, r"config\.evals\.test\.count = 0 must be at least 1"), ({"cuont": 1}, "did you mean 'count'")],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    w = world()
    with pytest.raises(ConfigError, match=message):
        w.evaluate(**{**SPEC, **change})
    assert not w.batches


def test_a_model_without_such_attention_is_refused() -> None:
    w = world()
    w.context.predict["embed_image"] = w.context.predict.pop("attention")
    with pytest.raises(ConfigError, match="needs attention, which this objective does not offer"):
        attention.make(source="test", prefix="p", context=w.context)
