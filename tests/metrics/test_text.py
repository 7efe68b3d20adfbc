"""How numbers, durations and names read."""

import pytest

from vitfm.metrics import text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0, "0"),
        (6144000, "6,144,000"),
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (5e-6, "5.00e-06"),
        (-2.5, "-2.5"),
        ("text", "text"),
    ],
)
def test_numbers(value, expected):
    assert text.number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "–"), (0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min"), (250, "4 min 10 s"), (3600 * 27, "1 d 3 h")],
)
def test_durations(seconds, expected):
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(
    "name", ["test/knn/top1", "accuracy", "a/b/text_to_image_recall5", "a/b/recall_at_10", "accuracy/image", "a/b/miou"]
)
def test_fractions_are_percentages(name):
    assert text.metric(name, 0.5) == "50.0%"


@pytest.mark.parametrize("name", ["loss", "a/accuracy/loss", "stop1", "mapping", "grad_norm", "a/b/median_rank"])
def test_other_numbers_are_not(name):
    assert text.metric(name, 0.5) == "0.5"


def test_a_fraction_beyond_one_is_shown_as_it_is():
    assert text.metric("accuracy", 61.2) == "61.2"


def test_words():
    assert text.words("text_to_image_recall1") == "text to image recall\N{NO-BREAK SPACE}1"
