"""Bad examples are counted and listed alike however the run went, and too many of them end it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from vitfm import bad_data
from vitfm.bad_data import FILE, BadData
from vitfm.data.bad import Found


@dataclasses.dataclass(frozen=True)
class Loader:
    """What is asked of a training loader."""

    batch_size: int = 10
    epoch: int = 500
    name: str = "somewhere"

    @property
    def source(self) -> Loader:
        return self


def found(*ids: int, reason: Any = "truncated") -> list[tuple[int, Found]]:
    return [(i % 10, Found(i, f"{i}.jpg", reason, f"{i} is short")) for i in ids]


def opened(workdir: pathlib.Path, step: int | None = 0, counts: Any = {}, **options: Any) -> BadData:
    bad = BadData(workdir, Loader(**{k: options.pop(k) for k in [*options] if k != "max_bad"}), **options)
    bad.begin(step, counts)
    return bad


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / FILE).read_text().splitlines()]


def test_each_is_listed_once_and_counted_each_time(tmp_path: pathlib.Path):
    bad = opened(tmp_path)
    bad.replaced(1, found(7, 3))
    bad.replaced(2, found(3, reason="truncated"))
    bad.replaced(3, found(5, reason="depth"))
    assert bad.settle(2) == [
        "Warning: 3 training examples up to step 2 can't be used and others stand for them: 3 truncated. "
        f"See {bad.path}."
    ]
    assert bad.metrics() == {"data/replaced": 3, "data/bad/truncated": 3}
    first = {"where": "somewhere", "key": "3.jpg", "reason": "truncated", "message": "3 is short", "step": 1, "id": 3}
    assert lines(tmp_path) == [first, {**first, "key": "7.jpg", "message": "7 is short", "id": 7}]  # By their rows.
    assert bad.settle(4) == []  # Said once.
    assert bad.metrics() == {"data/replaced": 4, "data/bad/truncated": 3, "data/bad/depth": 1}
    assert [line["key"] for line in lines(tmp_path)] == ["3.jpg", "7.jpg", "5.jpg"]


def test_nothing_bad_leaves_no_file(tmp_path: pathlib.Path):
    bad = opened(tmp_path)
    assert bad.settle(9) == []
    assert bad.metrics() == {"data/replaced": 0}
    assert not [*tmp_path.iterdir()]


def test_how_often_it_settles_and_where_it_was_interrupted_change_nothing(tmp_path: pathlib.Path):
    steps = {step: found(step % 7, (step * 3) % 11, 20 + step) for step in range(1, 13)}
    for name in ("one", "often", "killed"):
        (tmp_path / name).mkdir()
    one = opened(tmp_path / "one")
    for step, own in steps.items():
        one.replaced(step, own)
    one.settle(12)
    often = opened(tmp_path / "often")
    for step, own in steps.items():
        often.replaced(step, own)
        often.settle(step)
    killed, workdir, saved = opened(tmp_path / "killed"), tmp_path / "killed", {}
    for step in range(1, 10):
        killed.replaced(step, steps[step])
        if step in (6, 8):
            killed.settle(step)
            saved[step] = dict(killed.counts)  # What a checkpoint holds.
    with open(workdir / FILE, "ab") as file:
        file.write(b'{"where": "some')  # Torn.
    going_on = opened(workdir, 6, saved[6])
    for step in range(7, 13):
        going_on.replaced(step, steps[step])
    going_on.settle(12)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "often" / FILE).read_bytes()
    assert (tmp_path / "one" / FILE).read_bytes() == (workdir / FILE).read_bytes()
    assert one.metrics() == often.metrics() == going_on.metrics()


def test_a_new_run_forgets_what_one_without_a_checkpoint_left(tmp_path: pathlib.Path):
    bad = opened(tmp_path)
    bad.replaced(1, found(1))
    bad.settle(1)
    opened(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_evaluations_list_their_own_and_say_so_by_source(tmp_path: pathlib.Path):
    bad = opened(tmp_path)
    for _ in range(2):  # Two evaluators of one source.
        for _, own in found(4, 2):
            bad.unreadable("heldout", own)
    bad.unreadable("other", Found(0, "0.dcm", "depth", "deep"))
    told = bad.settle(5)
    assert told == [
        "Warning: images of heldout can't be read and are evaluated as black ones: 2 truncated, the first 2.jpg. "
        f"See {bad.path}.",
        "Warning: images of other can't be read and are evaluated as black ones: 1 depth, the first 0.dcm. "
        f"See {bad.path}.",
    ]
    assert [(line["where"], line["key"], line["step"]) for line in lines(tmp_path)] == [
        ("heldout", "2.jpg", 5),
        ("heldout", "4.jpg", 5),
        ("other", "0.dcm", 5),
    ]
    assert bad.metrics() == {"data/replaced": 0}
    bad.unreadable("heldout", found(4)[0][1])
    assert bad.settle(10) == [] and len(lines(tmp_path)) == 3


def test_an_evaluation_of_a_finished_run_adds(tmp_path: pathlib.Path):
    bad = opened(tmp_path)
    bad.replaced(1, found(1))
    bad.settle(1)
    later = BadData(tmp_path)
    later.begin(None)
    later.unreadable("heldout", found(2)[0][1])
    assert len(later.settle(0)) == 1
    assert [line["key"] for line in lines(tmp_path)] == ["1.jpg", "2.jpg"]


def fed(bad: BadData, first: int, last: int, each: int) -> int | None:
    """The first step with too many, where so many of ten are bad in every step; settled as a run does."""
    for step in range(first, last + 1):
        bad.replaced(step, found(*range(each), reason="depth"))
        if bad.due(step) or step % 40 == 0:
            bad.settle(step)
        if bad.excess():
            return step
    return None


@pytest.mark.parametrize(
    ("epoch", "each", "max_bad", "stopped"),
    [
        (5000, 2, 0.1, 100),
        (500, 2, 0.1, 50),
        (25, 2, 0.1, 3),
        (500, 1, 0.1, None),
        (500, 1, 0.09, 50),
        (500, 9, 1.0, None),
    ],
    ids=["a thousand were seen", "all were seen", "few", "just as many", "a little more", "any"],
)
def test_too_many_stop_a_run(tmp_path: pathlib.Path, epoch: int, each: int, max_bad: float, stopped: int | None):
    assert fed(opened(tmp_path, epoch=epoch, max_bad=max_bad), 1, 120, each) == stopped


def test_it_says_which_why_and_what_helps(tmp_path: pathlib.Path):
    bad = opened(tmp_path, max_bad=0.1)
    fed(bad, 1, 50, 3)
    said = bad.excess()
    assert (
        "150 of 500 examples of somewhere can't be used. 30.0% is more than config.data.max_bad = 0.1: 150 depth."
        in said
    )
    assert "  0.jpg: 0 is short\n  1.jpg: 1 is short\n" in said
    assert "config.data.input.dtype" in said


def test_they_become_too_many_later_on(tmp_path: pathlib.Path):
    bad = opened(tmp_path, max_bad=0.1)
    assert fed(bad, 1, 80, 1) is None
    assert fed(bad, 81, 200, 5) == 120  # When it is looked at next.


def test_a_run_that_goes_on_with_mended_data_is_not_held_to_the_past(tmp_path: pathlib.Path):
    bad = opened(tmp_path, max_bad=0.1)
    assert fed(bad, 1, 200, 5) == 50
    again = opened(tmp_path, 50, dict(bad.counts), max_bad=0.1)
    assert again.excess() is None
    assert fed(again, 51, 200, 1) is None
    assert again.metrics()["data/replaced"] == 250 + 150
    worse = opened(tmp_path, 50, dict(bad.counts), max_bad=0.1)
    assert fed(worse, 51, 200, 2) == 100


def test_processes_bring_together_what_each_has_noted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """The other's notes arrive as a network would bring them."""
    other = [bad_data._Note(1, False, "somewhere", 12, Found(1, "1.jpg", "empty", "nothing"))]
    monkeypatch.setattr(bad_data, "_of_all_processes", lambda notes: [*notes, *other])
    bad = opened(tmp_path)
    bad.replaced(1, found(3))
    bad.settle(1)
    bad.settle(2)
    assert bad.metrics() == {"data/replaced": 3, "data/bad/empty": 2, "data/bad/truncated": 1}
    assert [line["key"] for line in lines(tmp_path)] == ["3.jpg", "1.jpg"]
