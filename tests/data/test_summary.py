"""The summary of a source: what headers say, what is counted over how many, and what can't be used."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis
import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import captions, labels, summary, tokenizer
from vitfm.data.bad import BadExample


@dataclasses.dataclass(frozen=True)
class Examples:
    """A source in memory; an exception among its examples is raised when it is read."""

    rows: Sequence[Mapping[str, Any] | BadExample]
    name: str = "here"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if isinstance(self.rows[index], BadExample):
            raise self.rows[index]
        return self.rows[index]

    def key(self, index: int) -> str:
        return f"row {index}"


class WithColumns(Examples):
    """It knows its features without reading an example."""

    def column(self, feature: str) -> Sequence[Any]:
        return [None if isinstance(row, BadExample) else row[feature] for row in self.rows]


def encoded(
    mode: str = "RGB", size: tuple[int, int] = (40, 30), format_: str = "JPEG", value: int = 90, **save: Any
) -> bytes:
    """An image file of width and height `size`."""
    file = io.BytesIO()
    PIL.Image.new(mode, size, value).save(file, format_, **save)
    return file.getvalue()


def tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((20, 10, 4), np.uint16), photometric="minisblack", planarconfig="contig")
    return file.getvalue()


def of(images: Sequence[bytes], **options: Any) -> summary.Summary:
    return summary.make(Examples([{"image": image} for image in images]), **options)


def test_headers_say_what_there_is():
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    images = [
        encoded(),
        encoded("L"),
        encoded("CMYK"),
        encoded(exif=turned),
        encoded("RGBA", (7, 9), "PNG"),
        encoded("I;16", (7, 9), "PNG"),
        encoded("P", (7, 9), "PNG"),
        encoded("RGB", (300, 200), "WEBP"),
        tiff(),
    ]
    found = of(images)
    assert found.examples == found.sampled == 9 and not found.decoded and not found.rejects
    assert found.sizes.tolist() == [[30, 40]] * 3 + [[40, 30]] + [[9, 7]] * 3 + [[200, 300], [20, 10]]
    assert found.bytes.tolist() == [len(image) for image in images]
    assert found.formats == {
        "jpeg RGB": 2,
        "jpeg L": 1,
        "jpeg CMYK": 1,
        "png RGBA": 1,
        "png I 16 bits": 1,
        "png P": 1,
        "webp RGB": 1,
        "tiff 4 × uint16": 1,
    }
    assert found.labels is None and found.captions is None


def test_what_cannot_be_used_is_counted_by_reason_and_shown():
    whole = encoded(size=(64, 64))
    rows = [
        {"image": whole},
        {"image": whole[: len(whole) // 2]},
        {"image": b""},
        {"image": b"<!DOCTYPE html><p>404"},
        BadExample("missing", "It is gone."),
        *({"image": b""} for _ in range(7)),
    ]
    found = summary.make(Examples(rows))
    assert [(one.reason, one.count) for one in found.rejects] == [
        ("empty", 8),
        ("truncated", 1),
        ("format", 1),
        ("missing", 1),
    ]
    assert [bad.key for bad in found.rejects[0].shown] == ["row 2", "row 5", "row 6", "row 7", "row 8"]
    assert found.rejects[3].shown[0].message == "It is gone."
    assert found.sizes.tolist() == [[64, 64]] and found.sampled == 12


def test_decoding_finds_what_headers_hide():
    deep = encoded("I;16", format_="PNG", value=3000)
    assert not of([encoded(), deep]).rejects
    found = of([encoded(), deep], decode=True)
    assert found.decoded and [(one.reason, one.count) for one in found.rejects] == [("depth", 1)]


def test_a_source_of_which_nothing_can_be_used_has_a_summary():
    label = labels.Labels("kind", ("a", "b"), False)
    found = summary.make(Examples([{"image": b"", "kind": "a"}]), label=label)
    assert found.sizes.shape == (0, 2) and found.labels.counts.tolist() == [0, 0] and not found.copies


def test_files_of_the_same_bytes_are_copies():
    images = [encoded(value=i) for i in (1, 2, 3)]
    found = of([images[i] for i in (0, 1, 0, 2, 1, 0)])
    assert found.copies == ((0, 2, 5), (1, 4))


@hypothesis.given(count=st.integers(1, 10**9), most=st.integers(1, 400))
def test_a_sample_is_spread_evenly(count: int, most: int):
    ids = summary.spread(count, most)
    assert len(ids) == min(count, most) == len(set(ids.tolist()))
    assert ids[0] == 0 and (len(ids) == 1 or ids[-1] == count - 1)
    gaps = np.diff(ids)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_of_a_large_source_a_sample_is_read():
    reads = []

    class Noted(Examples):
        def __getitem__(self, index: int) -> Mapping[str, Any]:
            reads.append(index)
            return super().__getitem__(index)

    seen = []
    found = summary.make(Noted([{"image": encoded()}] * 100), sample=12, seen=lambda: seen.append(1))
    assert found.examples == 100 and found.sampled == len(found.sizes) == len(seen) == 12
    assert sorted(reads) == summary.spread(100, 12).tolist()


@pytest.mark.parametrize(("kind", "examples"), [(Examples, 4), (WithColumns, 9)])
def test_labels_are_counted_over_all_where_the_source_knows_them(kind: type[Examples], examples: int):
    rows = [{"image": encoded(), "kind": "a" if i < 6 else "b"} for i in range(9)]
    found = summary.make(kind(rows), label=labels.Labels("kind", ("a", "b", "c"), False), sample=4).labels
    assert found.examples == examples and found.counts.sum() == examples
    assert found.names == ("a", "b", "c") and found.counts[2] == 0
    if kind is WithColumns:
        assert found.counts.tolist() == [6, 3, 0]


def test_an_example_of_several_classes_counts_in_each():
    rows = [{"image": encoded(), "kinds": kinds} for kinds in ((0, 2), (2,), (1, 2))]
    found = summary.make(Examples(rows), label=labels.Labels("kinds", ("a", "b", "c"), True)).labels
    assert found.counts.tolist() == [1, 1, 3] and found.examples == 3


def test_examples_without_a_label_are_not_counted():
    rows = [{"image": encoded(), "kind": 1}, {"image": encoded(), "kind": None}, BadExample("missing", "")]
    found = summary.make(WithColumns(rows), label=labels.Labels("kind", ("a", "b"), False))
    assert found.labels.counts.tolist() == [0, 1] and found.labels.examples == 1
    assert [(one.reason, one.count) for one in found.rejects] == [("other", 1), ("missing", 1)]


def test_captions_are_measured_before_they_are_cut():
    texts = ["a dog", "a dog", "a very long text about a dog that runs over a green field", "  "]
    rows = [{"image": encoded(value=i), "text": text} for i, text in enumerate(texts)]
    long = tokenizer.make(length=200)
    options = {"caption": captions.make(name="text"), "tokenizer": long, "limit": 6}
    found = summary.make(Examples(rows), **options)
    assert found.captions.tokens.tolist() == long(texts[:3])[1].sum(1).tolist()
    assert found.captions.characters.tolist() == [5, 5, len(texts[2])]
    assert found.captions.cut == 1 and found.captions.limit == 6
    assert found.captions.common == (("a dog", 2),) and found.captions.longest == texts[2]
    assert [(one.reason, one.count) for one in found.rejects] == [("caption", 1)]


def test_a_feature_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"config\.data\.image = 'picture' is no feature: Known: image"):
        summary.make(Examples([{"image": encoded()}]), image="picture")
