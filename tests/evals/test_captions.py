"""Captions are drawn beside images of the whole set and their own captions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.evals.fake import World
from vitfm.config import ConfigError
from vitfm.evals import base
from vitfm.metrics import pictures

COUNT = 23
WORDS = ("", "Thing", "other")


def world(devices: int = 1) -> World:
    """Image i is called "thing i"; what is written for it is "Thing  i" where i is even, else "other i"."""
    examples = [{"image": i, "name": f"thing {i}"} for i in range(COUNT)]
    made = World({"test": examples}, np.zeros((COUNT, 2)), {"": np.zeros(2)}, devices)
    caption = lambda params, image: np.stack([1 + image % 2, image], axis=1).astype(np.int32)
    made.context = dataclasses.replace(
        made.context,
        predict={**made.context.predict, "caption": caption},
        decode=lambda row: f"{WORDS[row[0]]}  {row[1]}",
    )
    return made


@pytest.mark.parametrize(("count", "devices"), [(4, 1), (4, 8), (50, 1)])
def test_rows_show_images_of_the_whole_set_with_both_captions(
    count: int, devices: int, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[Any] = []
    draw = pictures.image_to_text_grid
    monkeypatch.setattr(pictures, "image_to_text_grid", lambda *given: drawn.append(given) or draw(*given))
    ((name, picture),) = world(devices).evaluate(name="captions", source="test", prefix="p", count=count).items()
    assert name == "p/captions" and picture.dtype == np.uint8 and picture.shape[-1] == 3
    ((images, texts, right, truth),) = drawn
    numbers = np.linspace(0, COUNT - 1, min(count, COUNT)).astype(int).tolist()
    assert [int(image[0, 0, 0]) for image in images] == numbers
    assert truth == [f"thing {i}" for i in numbers]
    assert texts == [[f"{'other' if i % 2 else 'Thing'}  {i}"] for i in numbers]
    assert right == [[i % 2 == 0] for i in numbers]


def test_what_makes_no_sense_is_refused():
    spec = {"name": "captions", "source": "test", "prefix": "p"}
    with pytest.raises(ConfigError, match=r"config\.evals\.test\.count = 0"):
        world().evaluate(**spec, count=0)
    with pytest.raises(ConfigError, match="'nam'.*name"):
        world().evaluate(**spec, caption="nam")
    without = dataclasses.replace(world().context, predict={})
    with pytest.raises(ConfigError, match=r"needs caption.*it offers nothing"):
        base.make("test", spec, without)
