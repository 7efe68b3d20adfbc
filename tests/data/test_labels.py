"""Labels from class labels, texts, integers and sequences of them, without an image being decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from vitfm.config import ConfigError
from vitfm.data import labels, sources
from vitfm.data.bad import BadExample
from vitfm.data.sources import base


@dataclasses.dataclass
class Examples:
    """A source of these values of `kind`; it counts how many were read."""

    roles = {"label": "kind"}  # noqa: RUF012

    values: Sequence[Any]
    names: tuple[str, ...] | None = None
    name: str = "examples"
    read: int = 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        return {"image": b"no image", "kind": self.values[index]}

    def classes(self, feature: str) -> tuple[str, ...] | None:
        return self.names


def made(values: Sequence[Any], **options: Any) -> labels.Labels:
    return labels.make(feature="kind", open_source=lambda: Examples(values), **options)


def label(ours: labels.Labels, value: Any) -> np.ndarray:
    return ours({"kind": value})


def test_texts_are_numbered_in_their_order():
    ours = made(["dog", "cat", "dog", "ant"])
    assert ours.classes == ("ant", "cat", "dog") and not ours.multi_label
    found = label(ours, "cat")
    assert found == 1 and found.dtype == np.int32 and found.shape == ()


def test_class_labels_are_known_without_reading_the_examples():
    source = Examples([np.int64(1), np.int64(0)] * 500, names=("cat", "dog", "owl"))
    ours = labels.make(feature="kind", open_source=lambda: source)
    assert source.read == 1
    assert ours.classes == ("cat", "dog", "owl")
    assert label(ours, np.int64(2)) == 2


def test_integers_are_themselves():
    ours = made([np.int64(3), np.int64(0)])
    assert ours.classes == ("0", "1", "2", "3")
    assert label(ours, np.int64(3)) == 3


@pytest.mark.parametrize(
    ("values", "one", "hot"),
    [
        ([("red", "blue"), (), ("green",)], ("green", "red"), [0, 1, 1]),
        ([("red", "blue"), (), ("green",)], (), [0, 0, 0]),
        ([np.array([0, 2]), np.array([], np.int64)], np.array([2]), [0, 0, 1]),
    ],
)
def test_sequences_are_several_labels(values: Sequence[Any], one: Any, hot: list[int]):
    ours = made(values)
    assert ours.multi_label and len(ours.classes) == 3
    found = label(ours, one)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, hot)


def test_named_classes_keep_the_source_closed():
    def closed() -> base.Source:
        raise AssertionError("opened")

    ours = labels.make(feature="kind", classes=["owl", "cat"], multi_label=False, open_source=closed)
    assert ours.classes == ("owl", "cat") and label(ours, "owl") == 0


def test_the_embedded_set_has_its_98_subgroups():
    source = sources.make("tfds:emoji:train")
    ours = labels.make(feature="subgroup", open_source=lambda: source)
    assert len(ours.classes) == 98 and list(ours.classes) == sorted(ours.classes)
    assert ours.classes[ours(source[5])] == source[5]["subgroup"]
    tags = labels.make(feature="tags", open_source=lambda: sources.make("tfds:emoji:train[:50]"))
    assert tags.multi_label
    assert [tags.classes[i] for i in np.flatnonzero(tags(source[5]))] == sorted(set(source[5]["tags"]))


def test_the_source_says_which_feature_it_is():
    ours = labels.make(open_source=lambda: Examples(["dog", "cat"]), classes=["cat", "dog"], multi_label=False)
    assert ours.feature == "kind" and label(ours, "dog") == 1
    with pytest.raises(ConfigError, match=r"config\.data\.label: emoji:train does not say .* codepoint, group, image"):
        labels.make(open_source=lambda: sources.make("tfds:emoji:train"))


class Columns(Examples):
    """It knows all values at once."""

    def column(self, feature: str) -> Sequence[Any]:
        return self.values


def test_columns_are_read_where_there_are_any():
    source = Columns(["dog", "cat", None, "ant"] * 100)
    assert labels.make(open_source=lambda: source).classes == ("ant", "cat", "dog")
    assert source.read < 3


@pytest.mark.parametrize("values", [[None, "b", "a"], [None, None, ("a", "b")], ["b", None, "a"]])
def test_examples_without_a_label_are_bad(values: Sequence[Any]):
    ours = made(values)
    assert ours.classes == ("a", "b") and ours.multi_label == isinstance(values[2], tuple)
    assert label(ours, values[2]).sum() in (0, 2)
    with pytest.raises(BadExample, match="no label: 'kind' is None") as error:
        label(ours, None)
    assert error.value.reason == "other"


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([0.5, 1.0], {}, r"label\.feature = 'kind': labels are texts, or integers from 0 up; .* values such as"),
        ([np.int64(-1), np.int64(4)], {}, "integers from 0 up"),
        ([np.int64(2**40)], {}, "integers from 0 up"),
        (["cat", np.int64(1)], {}, "labels are texts, or integers"),
        ([(), ()], {}, r"'kind' names no class: it is \(\) in all"),
        ([None, None], {}, "'kind' names no class: it is None in all examples"),
        (["cat"], {"classes": ["cat", "cat"]}, "2 names, of which 1 differ"),
    ],
)
def test_what_cannot_be_a_label_is_refused(values: Sequence[Any], options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(values, **options)


def test_another_feature_or_class_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"label\.feature = 'knid' is no feature: did you mean 'kind'"):
        labels.make(feature="knid", open_source=lambda: Examples(["cat"]))
    with pytest.raises(ConfigError, match=r"'kind' = 'dig' is none of 2 classes\. did you mean 'dog'"):
        label(made(["cat", "dog"]), "dig")
    with pytest.raises(ConfigError, match=r"'kind' = -1 is none of 2 classes"):
        label(made([0, 1]), -1)
    with pytest.raises(ConfigError, match=r"multi_label = False, but 'kind' is \('cat',\)"):
        label(made(["cat", "dog"]), ("cat",))
