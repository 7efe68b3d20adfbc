"""Bars and points stand for all of the numbers, and pictures keep their pixels."""

from __future__ import annotations

import base64

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from vitfm.metrics import gallery


def decoded(uri: str) -> np.ndarray:
    content = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_small_pictures_are_kept_to_the_pixel():
    np.testing.assert_array_equal(decoded(gallery.uri(noise(128, 60))), noise(128, 60))
    smooth = cv2.GaussianBlur(noise(300, 200), (0, 0), 5)
    assert np.abs(decoded(gallery.uri(smooth)).astype(int) - smooth).mean() < 2


@pytest.mark.parametrize(("shape", "small"), [((40, 60), (40, 60)), ((1000, 500), (160, 80)), ((3, 4000), (1, 160))])
def test_thumbnails_keep_their_proportions(shape: tuple[int, int], small: tuple[int, int]):
    assert gallery.thumbnail(noise(*shape)).shape == (*small, 3)


@hypothesis.given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50), st.booleans())
def test_every_whole_number_is_in_a_bar(numbers: list[int], log: bool):
    chart = gallery.histogram("x", np.array(numbers), log=log)
    if len(set(numbers)) == 1:
        assert chart["all"] and not chart["bars"]
    else:
        assert sum(bar["count"] for bar in chart["bars"]) == len(numbers) and len(chart["bars"]) <= 28
        assert max(bar["share"] for bar in chart["bars"]) == 1


@hypothesis.given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50), st.booleans())
def test_every_number_is_in_a_bar(numbers: list[float], log: bool):
    chart = gallery.histogram("x", np.array(numbers), log=log)
    assert len(set(numbers)) == 1 or sum(bar["count"] for bar in chart["bars"]) == len(numbers)


def test_bars_say_what_they_stand_for():
    chart = gallery.histogram("Tokens", np.array([3, 3, 4, 6]), "px")
    assert [(bar["label"], bar["count"], bar["share"]) for bar in chart["bars"]] == [
        ("3 px", 2, 1.0),
        ("4 px", 1, 0.5),
        ("5 px", 0, 0.0),
        ("6 px", 1, 0.5),
    ]
    assert (chart["low"], chart["median"], chart["high"]) == ("3 px", "3.5 px", "6 px")
    wide = gallery.histogram("Tokens", np.arange(100))["bars"]
    assert [bar["label"] for bar in wide[:2]] == ["0 to 3", "4 to 7"] and {bar["count"] for bar in wide} == {4}
    assert gallery.histogram("Size", np.array([10, 1000]), log=True)["bars"][-1]["label"] == "849 to 1,000"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (53_210, "53 kB"), (4.2e6, "4.2 MB"), (7e12, "7000 GB")],
)
def test_bytes_have_the_unit_a_reader_would_choose(count: float, words: str):
    assert gallery.amount(count, "B") == words


def test_a_square_image_lies_on_the_diagonal_and_a_wide_one_below():
    plot = gallery.sizes(np.array([64, 64, 64, 256]), np.array([64, 64, 256, 64]))
    points = {point["label"]: point for point in plot["points"]}
    assert set(points) == {"64 × 64: 2", "256 × 64: 1", "64 × 256: 1"}
    square, wide = points["64 × 64: 2"], points["256 × 64: 1"]
    assert square["x"] == pytest.approx(100 - square["y"]) and wide["x"] > 100 - wide["y"]
    assert square["r"] > wide["r"]
    assert [tick["label"] for tick in plot["ticks"]] == ["64", "128", "256"]
