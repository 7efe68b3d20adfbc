"""Of which kind features are, and that values come back from TFDS as they were, or are refused in words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from vitfm.config import ConfigError
from vitfm.data.bad import BadExample
from vitfm.data.prepare import kinds, values
from vitfm.data.prepare.kinds import Kind

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def inferred(*examples: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    return kinds.infer((str(number), example) for number, example in enumerate(examples))


def back(value: Any, kind: Any) -> Any:
    """Through TFDS, serialized and parsed again without TensorFlow, with the features that their JSON describes."""
    features = tfds.features.FeaturesDict({"x": values.feature(kind)})
    encoded = features.encode_example({"x": values.stored(value, kind)})
    record = ExampleSerializer(features.get_serialized_info()).get_tf_example(encoded).SerializeToString()
    skip = {"x": tfds.decode.SkipDecoding()} if kind == Kind("image") else None
    return tfds.features.FeaturesDict.from_json(features.to_json()).deserialize_example_np(record, decoders=skip)["x"]


@pytest.mark.parametrize(
    ("seen", "kind", "returned"),
    [
        (["a", None, "é"], Kind("text"), [b"a", None, "é".encode()]),
        ([1, None, -(2**62)], Kind("int64"), [1, None, -(2**62)]),
        ([1, 2.5, None], Kind("float32"), [1.0, 2.5, None]),
        ([True, None], Kind("bool"), [True, None]),
        ([True, 3], Kind("int64"), [1, 3]),
        ([np.uint8(3), np.int64(4)], Kind("int64"), [3, 4]),
        ([("a", "b"), (), None, "c"], Kind("text", (None,)), [[b"a", b"b"], [], [], [b"c"]]),
        ([(1, 2), (), (3,)], Kind("int64", (None,)), [[1, 2], [], [3]]),
        ([((1, 2, 3, 4),), ()], Kind("int64", (None, 4)), [[[1, 2, 3, 4]], np.zeros((0, 4))]),
        ([np.ones((2, 3)), np.zeros((4, 3))], Kind("float32", (None, 3)), [np.ones((2, 3)), np.zeros((4, 3))]),
        ([np.ones((2, 3)), np.zeros((1, 4))], Kind("float32", (None, None)), [np.ones((2, 3)), np.zeros((1, 4))]),
        ([np.arange(6, dtype=np.uint8).reshape(2, 3)], Kind("uint8", (2, 3)), [[[0, 1, 2], [3, 4, 5]]]),
        ([b"\xff\0", None], Kind("bytes"), [b"\xff\0", None]),
        ([PNG, PNG + b"1"], Kind("image"), [PNG, PNG + b"1"]),
        ([PNG, None], Kind("bytes"), [PNG, None]),
        ([PNG, b"\xff"], Kind("bytes"), [PNG, b"\xff"]),
    ],
)
def test_values_come_back(seen: list[Any], kind: Kind, returned: list[Any]):
    found, unknown = inferred(*({"x": value} for value in seen))
    assert found == {"x": kind} and not unknown
    for value, wanted in zip(seen, returned, strict=True):
        own = back(value, kind)
        if isinstance(own, np.ndarray):
            np.testing.assert_array_equal(own, wanted)
            assert own.dtype == kind.type and own.shape == np.shape(wanted)
        else:
            assert own == wanted and type(own) is type(wanted)


def test_features_within_features():
    found, unknown = inferred(
        {"objects": {"bbox": ((0.5, 1, 2, 3),), "name": ("cat",), "odd": None}, "empty": (), "none": None},
        {"objects": {"bbox": (), "name": ()}, "empty": (), "none": None},
        {"objects": None},
    )
    assert found == {"objects": {"bbox": Kind("float32", (None, 4)), "name": Kind("text", (None,))}}
    assert unknown == ["empty", "none"]
    own = back({"bbox": ((0.5, 1, 2, 3),), "name": ("cat",)}, found["objects"])
    assert own["name"] == [b"cat"] and own["bbox"].tolist() == [[0.5, 1, 2, 3]]
    with pytest.raises(BadExample, match="'new'"):
        values.stored({"new": 3}, found["objects"])


@pytest.mark.parametrize("name", ["image/encoded", "a b", "é", "x"])
def test_features_may_be_called_anything(name: str):
    features = tfds.features.FeaturesDict({name: values.feature(Kind("text")), "key": values.feature(Kind("text"))})
    record = ExampleSerializer(features.get_serialized_info()).serialize_example({name: "1", "key": "2"})
    assert features.deserialize_example_np(record) == {name: b"1", "key": b"2"}


def test_classes_by_name_and_by_number():
    kind = Kind("class", (), ("cat", "dog"))
    assert [back(value, kind) for value in ("cat", "dog", 1, np.int64(0), None)] == [0, 1, 1, 0, -1]
    assert back(("dog", "cat"), kind._replace(shape=(None,))) == [1, 0]
    assert values.stored(0, kind, own=("dog", "cow")) == 1  # Another split's numbers.
    for value, own in (("cow", None), (2, None), (-1, None), (1, ("dog", "cow")), (0.5, None)):
        with pytest.raises(BadExample, match=r"not one of 2 classes: "):
            values.stored(value, kind, own)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (1, "a", "integer and text"),
        ("a", {"b": 1}, "text and features b"),
        ((1, 2), ("a",), r"integer \[any number\] and text \[any number\]"),
        (1.5, ((1, 2), (3, 4)), "number and integer"),
        (b"\xff", "a", "bytes and text"),
        ("a", ({"b": 1},), "a list of objects"),
        ((1,), ((1, 2), (3,)), "a list of lists of different lengths"),
        (1, 2**64 - 1, "63 bits"),
        (1, 2**70, "values of type int, such as 118"),
        ("a", object, "values of type type"),
    ],
)
def test_what_has_no_kind_in_common_is_refused(one: Any, other: Any, words: str):
    with pytest.raises(ConfigError, match=words) as error:
        inferred({"x": one}, {"x": other})
    assert "'x'" in str(error.value) and "--feature=x=TYPE" in str(error.value) and "json" in str(error.value)
    assert "1)" in str(error.value)  # Where it is.


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("a", Kind("int64"), "str"),
        (0.5, Kind("int64"), "another number"),
        (float("nan"), Kind("int64"), "another number"),
        (2**63, Kind("int64"), "another number"),
        (2**70, Kind("int64"), "int"),
        (300, Kind("uint8"), "another number"),
        ((1, 2), Kind("int64"), "shape"),
        (np.zeros((2, 3)), Kind("float32", (None, 4)), "shape"),
        (None, Kind("float32", (3,)), "there is none"),
        (None, Kind("image"), "there is none"),
        (3, Kind("text"), "int"),
        ((3,), Kind("text", (None,)), "int"),
        ({"a": 1}, Kind("text"), "dict"),
        (3, {"a": Kind("text")}, "int"),
    ],
)
def test_a_value_of_another_kind_is_a_bad_example(value: Any, kind: Any, words: str):
    with pytest.raises(BadExample, match=words) as error:
        values.stored(value, kind)
    assert error.value.reason == "other"


def test_what_a_user_says_of_a_feature():
    assert [values.given(1.5, kind) for kind in ("text", "float", "json")] == ["1.5", 1.5, "1.5"]
    assert values.given("7", "int") == 7 and values.given(("1", 2), "float") == (1.0, 2.0)
    assert values.given(None, "int") is None and values.given("cat", "class") == "cat"
    objects = ({"a": np.float32(1), "b": np.arange(2)}, None, "é")
    assert json.loads(values.given(objects, "json")) == [{"a": 1.0, "b": [0, 1]}, None, "é"]
    for value, kind in (("x", "int"), ((1, "x"), "float"), (b"\xff", "json")):
        with pytest.raises(BadExample):
            values.given(value, kind)


def test_odd_bytes_of_names_are_printable():
    assert back(b"\xff.jpg".decode("utf-8", "surrogateescape"), Kind("text")) == rb"\udcff.jpg"


scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(width=32, allow_nan=False) | st.text()
)
numbers = st.lists(st.integers(-100, 100) | st.floats(-100, 100, width=32), max_size=4).map(tuple)
anything = (
    scalars | numbers | st.lists(st.text(), max_size=3).map(tuple) | st.dictionaries(st.text(min_size=1), scalars)
)


@given(st.lists(anything, min_size=1, max_size=6))
def test_all_values_fit_the_kind_that_they_have_together(seen: list[Any]):
    """Or are refused at once: nothing that was looked at is found not to fit when it is written."""
    try:
        found, unknown = inferred(*({"x": value} for value in seen))
    except ConfigError:
        return
    assert kinds.from_json(json.loads(json.dumps(kinds.as_json(found)))) == found
    if not unknown:
        for value in seen:
            values.stored(value, found["x"])
    again, _ = inferred(*({"x": value} for value in reversed(seen)))
    assert again == found or not isinstance(found["x"], Kind)  # But for the order of features within.
