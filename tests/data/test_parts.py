"""Parts by a hash: two sides share nothing and leave nothing out, whatever is added, and keep groups together."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import parts, sources
from vitfm.data.sources import base


@dataclasses.dataclass(frozen=True)
class Scans:
    """Examples with a key and a patient each."""

    keys_: tuple[str, ...]
    patients: tuple[Any, ...] = ()
    name: str = "scans"

    def __len__(self) -> int:
        return len(self.keys_)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": b"", "patient": self.patients[index] if self.patients else None, "at": index}

    def key(self, index: int) -> str:
        return self.keys_[index]


def taken(source: base.Source, text: str) -> list[str]:
    """The keys in a part; none where it is empty."""
    spec = f"scans:x{text}"
    whole, part = parts.split(spec)
    assert whole == "scans:x" and part is not None
    try:
        return list(parts.make(source, part, spec).keys())
    except ConfigError:
        return []


keys = st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=40)
percents = st.integers(1, 99) | st.sampled_from([0.5, 33.3, 99.99])


@given(keys, percents)
def test_two_sides_are_the_whole(names: list[str], percent: float):
    source = Scans(tuple(names))
    first, second = taken(source, f"#:{percent}%"), taken(source, f"#{percent}%:")
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(names)
    assert first == [name for name in names if name in first]  # In the order of the source.


@given(keys, percents, percents)
def test_three_pieces_are_the_whole(names: list[str], one: float, other: float):
    low, high = sorted((one, other))
    assume(low < high)
    pieces = [taken(Scans(tuple(names)), text) for text in (f"#:{low}%", f"#{low}%:{high}%", f"#{high}%:")]
    assert sorted(itertools.chain(*pieces)) == sorted(names)
    assert set(pieces[0]) <= set(taken(Scans(tuple(names)), f"#:{high}%"))


@given(keys, st.sets(st.integers(0, 39)), percents, st.randoms())
def test_adding_and_moving_examples_moves_none_to_the_other_side(
    names: list[str], late: set[int], percent: float, random: Any
):
    early = [name for number, name in enumerate(names) if number not in late]
    assume(early)
    shuffled = random.sample(names, len(names))
    for text in (f"#:{percent}%", f"#{percent}%:"):
        before, after = taken(Scans(tuple(early)), text), taken(Scans(tuple(shuffled)), text)
        assert set(before) == set(after) & set(early)


@given(st.lists(st.integers(0, 9) | st.sampled_from(["a", None, 2.5]), min_size=1, max_size=60), percents)
def test_groups_stay_together(patients: list[Any], percent: float):
    source = Scans(tuple(map(str, range(len(patients)))), tuple(patients))
    sides = [taken(source, f"#{share}&by=patient") for share in (f":{percent}%", f"{percent}%:")]
    groups = [{patients[int(key)] for key in side} for side in sides]
    assert not groups[0] & groups[1] and groups[0] | groups[1] == set(patients)
    assert sorted(itertools.chain(*sides)) == sorted(source.keys_)


def test_a_part_is_as_large_as_it_says():
    source = Scans(tuple(map(str, range(20_000))))
    for percent in (1, 10, 50, 90):
        assert len(taken(source, f"#:{percent}%")) / 20_000 == pytest.approx(percent / 100, abs=0.01)


def test_sides_are_where_they_always_were():
    """Runs that held a tenth out must find the same tenth: the hash may never change."""
    assert taken(Scans(tuple("abcdefghij")), "#80%:") == ["g", "i"]  # cd0aa9... and de7d1b... of SHA-256.


def test_names_that_are_no_utf8_have_a_side():
    assert taken(Scans(("\udcff.jpg",)), "#:100%") == ["\udcff.jpg"]


def test_a_part_is_a_source():
    whole = sources.make("tfds:emoji:validation")
    part = sources.make("tfds:emoji:validation#:30%")
    assert isinstance(part, base.Source) and part.name == "emoji:validation#:30%"
    copy = pickle.loads(pickle.dumps(part))
    assert len(copy) == len(part) < len(whole)
    assert list(copy) == list(part)
    names = [example["name"] for example in part]
    assert part.column("name") == names and 60 < len(names) < 130
    other = sources.make("tfds:emoji:validation#30%:")
    assert sorted([*part.keys(), *other.keys()]) == sorted(base.keys(whole))
    assert part.key(2) == part.keys()[2] and part[np.int64(2)]["name"] == names[2] == part[2 - len(part)]["name"]
    assert part.classes("name") is None
    with pytest.raises(IndexError):
        part[len(part)]


@dataclasses.dataclass(frozen=True)
class Known(Scans):
    """It knows more of itself."""

    roles: Any = dataclasses.field(default_factory=lambda: {"label": "patient"})

    def classes(self, feature: str) -> Sequence[str]:
        return ("p", "q", "never")

    def column(self, feature: str) -> Sequence[Any]:
        return self.patients


def test_a_part_knows_what_the_whole_knows():
    whole = Known(tuple("abcd"), ("p", "q", "p", "q"))
    part = parts.make(whole, parts.Part(0.0, 1.0, None), "scans:x#:100%")
    assert part.roles == {"label": "patient"} and part.classes("patient") == ("p", "q", "never")
    assert part.column("patient") == ["p", "q", "p", "q"]
    half = parts.make(whole, parts.Part(0.0, 1.0, "patient"), "scans:x#:100%&by=patient")
    assert [half.key(i) for i in range(4)] == list("abcd")


@pytest.mark.parametrize(
    ("spec", "whole", "part"),
    [
        ("folder:/a#:90%", "folder:/a", (0.0, 0.9, None)),
        ("folder:/a#90%:", "folder:/a", (0.9, 1.0, None)),
        ("folder:/a#2.5%:10%&by=the patient", "folder:/a", (0.025, 0.1, "the patient")),
        ("folder:/a#b", "folder:/a#b", None),
        ("folder:/a#b#:1%", "folder:/a#b", (0.0, 0.01, None)),
        ("csv:/x.csv?image=a&label=b#:90%&by=c", "csv:/x.csv?image=a&label=b", (0.0, 0.9, "c")),
        ("tfds:emoji:train[:90%]", "tfds:emoji:train[:90%]", None),
        ("folder:/a#90", "folder:/a#90", None),
        ("folder:/a#:", "folder:/a", (0.0, 1.0, None)),
        ("folder:/a#where=the kind:a=b:c", "folder:/a", ("the kind", "a=b:c")),
        ("folder:/a#where=kind", "folder:/a#where=kind", None),
        ("folder:/a#b:9", "folder:/a#b:9", None),
    ],
)
def test_specs(spec: str, whole: str, part: tuple[float, float, str | None] | None):
    assert parts.split(spec) == (whole, part)


@pytest.mark.parametrize("text", ["#50%:50%", "#60%:50%", "#:0%", "#100%:"])
def test_a_part_with_nothing_in_it_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"the part from .* is empty; write '#:90%' or '#90%:'"):
        parts.split(f"folder:/a{text}")


@pytest.mark.parametrize("text", ["#:101%", "#110%:", "#50%:110%&by=patient"])
def test_a_part_beyond_all_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"a part ends at 100%, which is all; write '#:90%' or '#90%:'"):
        parts.split(f"folder:/a{text}")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("#:90", "#:90%"), ("#90:", "#90%:"), ("#10%:90", "#10%:90%"), ("#2.5:&by=patient", "#2.5%:&by=patient")],
)
def test_numbers_that_are_no_percent_are_refused(text: str, wanted: str):
    with pytest.raises(ConfigError, match=f"parts are in percent; write '{wanted}'"):
        parts.split(f"folder:/a{text}")


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"none of 315 examples falls into this part; take a larger one"):
        sources.make("tfds:emoji:validation#:0.0001%")
    with pytest.raises(ConfigError, match=r"config\.data\.source = 'patient' is no feature: Known: codepoint"):
        sources.make("tfds:emoji:validation#:50%&by=patient")
    with pytest.raises(ConfigError, match=r"config\.data\.source = 'patient' is no feature: Known: codepoint"):
        sources.make("tfds:emoji:validation#where=patient:p")
    with pytest.raises(ConfigError, match=r"no style is 'Twemoji': did you mean 'twemoji'\?"):
        sources.make("tfds:emoji:validation#where=style:Twemoji")


def test_where_a_feature_has_a_value():
    whole = sources.make("tfds:emoji:validation")
    drawn = [example for example in whole if example["style"] == "twemoji"]
    part = sources.make("tfds:emoji:validation#where=style:twemoji")
    assert list(part) == drawn and len(drawn) == 99
    assert len(sources.make("tfds:emoji:validation#where=style:twemoji#:50%")) < 99
    scans = Scans(tuple("abcd"), (1, ("p", 2), "2", None))
    assert taken(scans, "#where=patient:2") == ["b", "c"] and taken(scans, "#where=patient:1") == ["a"]
    assert taken(scans, "#where=patient:None") == ["d"] and taken(scans, "#where=patient:3") == []
