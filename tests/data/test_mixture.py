"""Mixtures: each part has its share of every epoch, and each example of a part its share of that."""

from __future__ import annotations

import itertools
import pathlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import labels, mixture, pipeline, sources
from vitfm.data.bad import BadExample
from vitfm.data.example import number
from vitfm.data.sources import base


class Examples:
    """A source of these examples, with an image each."""

    def __init__(self, name: str, examples: Sequence[Mapping[str, Any]], **known: Any):
        self.name, self.examples = name, examples
        self.roles = known.get("roles", {"image": "image"})
        self.known = known.get("classes", {})

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.examples[index] is None:
            raise BadExample("missing", "gone")
        return {"image": b"%d" % index, **self.examples[index]}

    def classes(self, feature: str) -> Sequence[str] | None:
        return self.known.get(feature)

    def key(self, index: int) -> str:
        return f"{index}.jpg"


CATS = [{"label": "cat", "title": "a cat", "age": 1}, {"label": "kit", "title": "a kit", "age": 2}]
DOGS = [{"kind": "dog", "caption": ("a dog", "dogs"), "age": 3}] * 3
OPENED = {
    "cats": Examples("cats", CATS, roles={"image": "image", "label": "label", "caption": "title"}),
    "dogs": Examples("dogs", DOGS, roles={"image": "image", "label": "kind", "caption": "caption"}),
    "plain": Examples("plain", [{"age": 4}]),
    "hundred": Examples("hundred", [{}] * 100),
    "ten": Examples("ten", [{}] * 10),
}


def made(*parts: Mapping[str, Any] | str, opened: Mapping[str, Any] = OPENED, **options: Any) -> mixture.Source:
    given = tuple({"source": part} if isinstance(part, str) else part for part in parts)
    return mixture.make(parts=given, open_source=lambda name: opened[name], **options)


def stream(order: base.Order, epochs: int) -> np.ndarray:
    """[epochs, epoch] indices of examples."""
    return np.array([order[position] for position in range(epochs * order.epoch)]).reshape(epochs, order.epoch)


def places(*parts: Mapping[str, Any] | str, **options: Any) -> list[int]:
    """How often each part comes in an epoch."""
    source = made(*parts, **options)
    sizes = [len(part.source) for part in source._parts]
    bounds = np.cumsum(sizes)
    (epoch,) = stream(source.order(0), 1)
    return np.bincount(np.searchsorted(bounds, epoch, side="right"), minlength=len(sizes)).tolist()


def test_a_mixture_is_its_parts_one_behind_the_other():
    source = made("cats", "dogs")
    assert isinstance(source, base.Source) and source.name == "cats + dogs" and len(source) == 5
    assert list(source) == [
        {"image": b"0", "label": "cat", "caption": "a cat", "age": 1, "source": "cats"},
        {"image": b"1", "label": "kit", "caption": "a kit", "age": 2, "source": "cats"},
        *(
            {"image": b"%d" % i, "label": "dog", "caption": ("a dog", "dogs"), "age": 3, "source": "dogs"}
            for i in range(3)
        ),
    ]
    assert source.roles == {"image": "image", "label": "label", "caption": "caption"}
    for feature in ("label", "caption", "age", "source"):
        assert source.column(feature) == [example[feature] for example in source]
        assert base.column(source, feature, "x") == source.column(feature)
    assert source.keys() == ["cats/0.jpg", "cats/1.jpg", "dogs/0.jpg", "dogs/1.jpg", "dogs/2.jpg"]
    assert [source.key(i) for i in range(5)] == source.keys() and source.key(-1) == "dogs/2.jpg"
    assert list(pickle.loads(pickle.dumps(source))) == list(source)
    with pytest.raises(IndexError):
        source[5]


def test_features_are_those_of_all_parts_by_one_name():
    given = ({"source": "cats", "features": {"caption": "label", "old": "age"}}, {"source": "dogs", "name": "hounds"})
    assert made(*given)[0] == {"image": b"0", "label": "cat", "caption": "cat", "age": 1, "source": "cats"}
    both = (given[0], {**given[1], "features": {"old": "age"}})
    last = {"image": b"2", "label": "dog", "caption": ("a dog", "dogs"), "age": 3, "source": "hounds"}
    assert made(*both)[4] == {**last, "old": 3}
    assert made(*both).column("old") == [1, 2, 3, 3, 3]
    plain = made("cats", "plain")
    assert plain.roles == {"image": "image"} and plain[2] == {"image": b"0", "age": 4, "source": "plain"}
    with pytest.raises(ConfigError, match=r"data\.label\.feature = 'label' is no feature: .*Known: age, image, source"):
        labels.make(feature="label", open_source=lambda: plain)


def test_one_example_that_cannot_be_read_is_no_matter():
    opened = {"holes": Examples("holes", [None, {"label": "x"}]), "dogs": OPENED["cats"]}
    source = made("holes", "dogs", opened=opened)
    with pytest.raises(BadExample):
        source[0]
    assert source[1]["label"] == "x" and source.column("label") == [None, "x", "cat", "kit"]


def test_classes_are_those_of_all_parts():
    known = lambda name, value, *classes: Examples(name, [{"y": value}], classes={"y": classes} if classes else {})
    texts = {"a": known("a", "p", "q", "p"), "b": known("b", "r", "p", "r"), "c": known("c", "s")}
    assert made("a", "b", opened=texts).classes("y") == ("q", "p", "r")
    assert made("a", "b", "c", opened=texts).classes("y") is None
    assert labels.make(feature="y", open_source=lambda: made("a", "b", "c", opened=texts)).classes == ("p", "r", "s")
    numbers = {"d": known("d", 0, "p", "q"), "e": known("e", 1, "p", "q"), "f": known("f", 1, "q", "p")}
    numbers |= {"g": known("g", 7), "h": known("h", 2), "i": known("i", None, "p", "q"), **texts}
    assert made("d", "e", opened=numbers).classes("y") == ("p", "q")
    assert made("d", "i", opened=numbers).classes("y") == ("p", "q")
    assert made("g", "h", opened=numbers).classes("y") is None
    assert made("d", "f", opened=numbers).classes("source") == ("d", "f")
    for pair in (("d", "f"), ("d", "g"), ("a", "d"), ("c", "h")):
        with pytest.raises(ConfigError, match=r"data\.source: 'y' is an integer .* another class in each part"):
            made(*pair, opened=numbers).classes("y")


def weighted(*weights: float) -> tuple[Mapping[str, Any], ...]:
    names = ("hundred", "ten", "cats")
    return tuple({"source": name, "weight": weight} for name, weight in zip(names, weights, strict=False))


@pytest.mark.parametrize(
    ("parts", "options", "wanted"),
    [
        (("hundred", "ten"), {}, [100, 10]),
        (("hundred", "ten"), {"size": 33}, [30, 3]),
        (("hundred", "ten"), {"temperature": 2.0}, [84, 26]),  # 10 : 10^0.5.
        (("hundred", "ten"), {"temperature": 1e9}, [55, 55]),
        (("hundred", "ten"), {"temperature": 0.01, "size": 10**4}, None),
        (weighted(2, 1), {}, [73, 37]),
        (weighted(2, 1), {"size": 300}, [200, 100]),
        (weighted(9, 4), {"size": 50, "temperature": 2}, [30, 20]),
        (weighted(1, 1, 2), {"size": 100}, [25, 25, 50]),
        (({"source": "hundred", "epochs": 0.5}, {"source": "ten", "epochs": 3}), {}, [50, 30]),
        (("hundred", {"source": "ten", "epochs": 3}), {}, [100, 30]),
        (("hundred", "cats", {"source": "ten", "epochs": 3}), {"size": 81}, [50, 1, 30]),
        ((*weighted(1), {"source": "ten", "epochs": 2}), {"size": 30}, [10, 20]),
    ],
)
def test_shares(parts: Sequence[Any], options: dict[str, Any], wanted: list[int] | None):
    if wanted is None:  # The second has a share of 10^-100.
        with pytest.raises(ConfigError, match=r"'ten' has no place among 10000"):
            places(*parts, **options)
    else:
        assert places(*parts, **options) == wanted


sizes_and_places = st.lists(st.tuples(st.integers(1, 15), st.integers(1, 20)), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(sizes_and_places, st.integers(0, 2**31 - 1), st.integers(1, 4))
def test_examples_of_a_part_come_equally_often(pairs: list[tuple[int, int]], seed: int, epochs: int):
    sizes, wanted = zip(*pairs, strict=True)
    order = mixture.Order(sizes, wanted, seed)
    starts = np.cumsum([0, *sizes])
    counts = np.stack([np.bincount(epoch, minlength=starts[-1]) for epoch in stream(order, epochs)])
    for start, end, count in zip(starts, starts[1:], wanted, strict=False):
        own = counts[:, start:end]
        assert (own.sum(1) == count).all()
        assert (np.ptp(own, axis=1) <= 1).all()  # Within each epoch,
        assert (np.ptp(own.cumsum(0), axis=1) <= 1).all()  # and since the beginning.


def test_a_part_that_an_epoch_takes_little_of_is_through_in_the_end():
    epochs = stream(mixture.Order((100, 10), (10, 10), 0), 10)
    shown = [{i for i in epoch if i < 100} for epoch in epochs]
    assert set.union(*shown) == set(range(100)) and sum(map(len, shown)) == 100
    assert all(max(one) - min(one) > 30 for one in shown)  # From all over the part: a folder is sorted by classes.


def test_order_is_shuffled_and_a_function_of_the_seed_and_position():
    order = lambda seed: mixture.Order((50, 50), (50, 50), seed)
    epochs = [*stream(order(0), 3), *stream(order(1), 1), np.arange(100)]
    for a, b in itertools.combinations(epochs, 2):
        assert (a == b).mean() < 0.1
    assert [order(0)[position] for position in (250, 3, 250)] == [epochs[2][50], epochs[0][3], epochs[2][50]]
    assert 15 < (epochs[0][:50] < 50).sum() < 35  # Parts are mixed.
    copy = pickle.loads(pickle.dumps(order(0)))
    assert [copy[i] for i in range(5)] == epochs[0][:5].tolist()


def test_a_thousand_million_examples_cost_nothing():
    order = mixture.Order((10**9, 3), (10**9 // 2, 10**6), 0)
    found = [order[10**12 + i] for i in range(100)]
    assert len(set(found)) == 100 and max(found) < 10**9 + 3
    assert len(pickle.dumps(order)) < 5000


@pytest.mark.parametrize(
    ("parts", "options", "words"),
    [
        ((), {}, r"parts = \[\]: a mixture needs parts"),
        (("ten", "ten"), {}, r"\['ten', 'ten'\]: .* a name of its own; give them `name`"),
        (("ten",), {"temperature": 0.0}, r"temperature = 0\.0 must be above 0"),
        (({"source": "ten", "weight": 0},), {}, r"parts\.0\.weight = 0 must be above 0"),
        (("cats", {"source": "ten", "epochs": -1.0}), {}, r"parts\.1\.epochs = -1\.0 must be above 0"),
        (({"source": "ten", "epochs": 1, "weight": 1},), {}, r"parts\.0: weight and epochs both say .* 'ten'"),
        (("cats", {"source": "ten", "weight": 1.0}), {}, r"all parts a weight .* or none"),
        (({"source": "ten", "epochs": 2},), {"size": 30}, r"size = 30, but the `epochs` of its parts make 20"),
        (("cats", {"source": "ten", "epochs": 2}), {"size": 20}, r"'cats' has no place among 20"),
        (("cats", {"source": "ten", "epochs": 0.01}), {}, r"'ten' has no place among 2"),
        (({"source": "cats", "features": {"caption": "titel"}},), {}, r"parts\.0\.features = 'titel' is no .*'title'"),
        (({"source": "ten", "wieght": 1.0},), {}, r"Unknown key config\.data\.source\.parts\.0\.wieght: .*'weight'"),
        (({"source": {"parts": ()}},), {}, r"parts\.0\.source = .* wrong type"),
        (({"weight": 1.0},), {}, r"config\.data\.source\.parts\.0 lacks source"),
    ],
)
def test_what_cannot_be_is_refused(parts: Sequence[Any], options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(*parts, **options)


def test_a_recipe_names_it(tmp_path: pathlib.Path):
    for name in "012":
        (tmp_path / f"{name}.png").write_bytes(b"image")
    spec = {
        "parts": ({"source": f"folder:{tmp_path}", "weight": 1.0}, {"source": "tfds:emoji:test_style", "weight": 3.0})
    }
    source = sources.make({**spec, "size": 100})
    assert source[1] == {"image": b"image", "source": str(tmp_path)}
    assert source[3]["source"] == "emoji:test_style" and source[3]["image"][:4] == b"RIFF"
    assert np.mean(stream(source.order(0), 1) < 3) == 0.25
    with pytest.raises(ConfigError, match=r"Unknown key config\.data\.source\.temperatur: did you mean 'temperature'"):
        sources.make({**spec, "temperatur": 2.0})


def test_the_loader_follows_its_order():
    spec = {
        "parts": ({"source": "tfds:emoji:train", "weight": 1.0}, {"source": "tfds:emoji:test_style", "weight": 3.0})
    }
    data = pipeline.make(source={**spec, "size": 40}, image_size=8, columns={"part": "source"})
    loader = data.train_loader(batch_size=8, seed=5)
    source = sources.make({**spec, "size": 40})
    assert loader.epoch == 40 and len(loader.source) == len(source) == 5980 + 1715
    ids = np.concatenate([loader.batch_ids(step) for step in range(10)])
    assert ids.tolist() == [source.order(5)[position] for position in range(80)]
    assert (ids.reshape(2, 40) < 5980).sum(1).tolist() == [10, 10] and len(set(ids)) == 80
    stream = loader.batches(4)
    np.testing.assert_array_equal(next(stream)["part"], [number(source[i]["source"]) for i in ids[32:40]])
    stream.close()
