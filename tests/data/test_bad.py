"""Bad examples say why, also from another process, and what helps."""

from __future__ import annotations

import pickle

import pytest

from vitfm.data import bad


@pytest.mark.parametrize("reason", bad.REASONS)
def test_each_reason_survives_a_process_and_has_a_remedy(reason: bad.Reason):
    error = pickle.loads(pickle.dumps(bad.BadExample(reason, "3 bytes.")))
    found = bad.found(7, "a/b.jpg", error)
    assert found == bad.Found(7, "a/b.jpg", reason, "3 bytes.")
    lines = bad.explained({reason: 1}, [found]).splitlines()
    assert lines[:2] == ["  a/b.jpg: 3 bytes.", "What helps:"]
    (remedy,) = lines[2:]
    assert remedy.startswith(f"  {reason}: ") and remedy.endswith(".") and not remedy.endswith("..")


def test_other_errors_have_no_reason_of_their_own():
    assert bad.found(0, "x", ValueError("odd")).reason == "other"


def test_names_that_are_no_text_can_be_written():
    found = bad.found(0, "a\udcff.jpg", ValueError("a\udcff.jpg is gone"))
    assert found.key.encode() == rb"a\udcff.jpg" and found.message.encode() == rb"a\udcff.jpg is gone"


def test_counts_begin_with_the_most():
    assert bad.counted({"depth": 1, "truncated": 1200, "empty": 1}) == "1,200 truncated, 1 depth, 1 empty"


def test_a_few_are_named_and_only_what_occurred_is_explained():
    found = [bad.Found(i, str(i), "depth", "deep") for i in range(9)]
    text = bad.explained({"depth": 9, "caption": 0}, found)
    assert text.count("deep") == bad.SHOWN
    assert "config.data.input.dtype" in text and "captions" not in text
