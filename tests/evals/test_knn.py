"""Neighbours and votes equal brute force in NumPy, on any number of devices and in any batches."""

import dataclasses
import functools
import re
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from tests.evals import probed
from tests.evals.fake import World
from vitfm.config import ConfigError
from vitfm.evals import embeddings, knn

SPEC = {"name": "knn", "train": "train", "test": "test", "label": "kind", "prefix": "p"}
NAMES = np.array(["ant", "bee", "cow", "dog"])


def world(devices: int = 1, images: int = 61, tested: int = 23, spread: float = 3.0) -> World:
    features, labels = probed.clouds(images, 4, (2, 2, 8), seed=0, spread=spread)
    test_features, test_labels = probed.clouds(tested, 4, (2, 2, 8), seed=1, spread=spread)
    return probed.world(features, NAMES[labels].tolist(), test_features, NAMES[test_labels].tolist(), devices)


def brute(w: World, k: int, temperature: float) -> float:
    """Accuracy by loops over images and their neighbours; a class level with the right one counts against it."""
    train, test = w.context.open_source("train"), w.context.open_source("test")
    vector = lambda example: w.context.predict["features"]({}, np.array([example["image"]]))[0, -1, 0].astype(float)
    unit = lambda x: x / np.linalg.norm(x)
    bank, right = [(unit(vector(example)), example["kind"]) for example in train], 0
    for example in test:
        query = unit(vector(example))
        nearest = sorted(((float(query @ v), kind) for v, kind in bank), reverse=True)[:k]
        votes: dict[str, float] = {}
        for similarity, kind in nearest:
            votes[kind] = votes.get(kind, 0) + np.exp(similarity / temperature)
        own = votes.pop(example["kind"], 0)
        right += own > max(votes.values(), default=0)
    return right / len(test)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 64), (2, 5), (8, 7)])
def test_it_equals_brute_force_on_any_devices_and_in_any_batches(devices: int, batch_size: int) -> None:
    w = world(devices)
    found = w.evaluate(**SPEC, batch_size=batch_size)
    assert (w.asked == 1).all()
    assert {size % devices for size in w.batches} == {0}
    expected = {f"p/knn/top1_k{k}": brute(w, k, 0.07) for k in (10, 20)}  # Of 61 images there are no 100.
    assert found == pytest.approx({**expected, "p/knn/top1": expected["p/knn/top1_k20"]})
    assert 0.3 < found["p/knn/top1"] < 0.95


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_other_numbers_and_temperatures(temperature: float) -> None:
    w = world()
    found = w.evaluate(**SPEC, k=[3, 61], temperature=temperature)
    expected = {f"p/knn/top1_k{k}": brute(w, k, temperature) for k in (3, 61)}
    assert found == pytest.approx({**expected, "p/knn/top1": expected["p/knn/top1_k3"]})


def test_whitened_features_show_what_few_directions_drown() -> None:
    drowned = []
    for images, seed in ((400, 0), (100, 1)):
        features, labels = probed.clouds(images, 4, (2, 2, 8), seed=seed, spread=0.5)
        loud = 30 * np.random.default_rng(seed + 5).normal(size=(images, 1, 1, 3))
        features[..., :3] += loud
        drowned += [features, NAMES[labels].tolist()]
    w = probed.world(*drowned)
    whitened = w.evaluate(**SPEC, whiten=True)
    # Any root of the inverse covariance whitens, and all give the same cosines.
    bank = drowned[0][:, -1, 0].astype(np.float64)
    root = np.linalg.cholesky(np.linalg.inv(np.cov(bank.T, bias=True)))
    drowned[0], drowned[2] = ((x - bank.mean(0)) @ root for x in (drowned[0], drowned[2]))
    expected = probed.world(*drowned).evaluate(**SPEC)
    assert whitened == pytest.approx({key.replace("knn", "knn_whitened"): top1 for key, top1 in expected.items()})
    assert whitened["p/knn_whitened/top1"] > w.evaluate(**SPEC)["p/knn/top1"] + 0.2


def test_whitening_stays_finite_without_variance() -> None:
    flat = np.concatenate([np.ones((9, 2)), np.arange(9)[:, None]], axis=1).astype(np.float32)
    mean, matrix = embeddings.whitening(flat)
    np.testing.assert_allclose(np.cov(((flat - mean) @ matrix).T, bias=True), np.diag([0, 0, 1]), atol=1e-5)
    assert all(np.isfinite(x).all() for x in embeddings.whitening(np.ones((4, 3), np.float32)))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=8, deadline=None)
def test_neighbours_are_those_of_a_stable_sort(
    images: int, queries: int, batch_size: int, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, images))
    w = world(devices=data.draw(st.sampled_from([1, 4])))
    random = np.random.default_rng(seed)
    bank = random.integers(-2, 3, (images, 3)).astype(np.float32)  # Few values, so many ties; products are exact.
    asked = random.integers(-2, 3, (queries, 3)).astype(np.float32)
    similarity, rows = knn.finder(w.context, count, batch_size)(asked, bank)
    expected = np.argsort(-(asked @ bank.T), axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(similarity, np.take_along_axis(asked @ bank.T, expected, axis=1))


def test_every_device_takes_its_own_nearest_and_only_those_travel() -> None:
    count, rows, mesh = 5, 1000, probed.mesh_of(8)
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    shapes = [jax.ShapeDtypeStruct(shape, np.float32, sharding=split) for shape in ((8, rows, 4), (8, rows))]
    queries = jax.ShapeDtypeStruct((3, 16, 4), np.float32)
    search = jax.jit(functools.partial(knn._search, count=count, mesh=mesh))
    text = search.lower(queries, *shapes).compile().as_text()
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-(?:gather|reduce|to-all)\(", text)
    sizes = [int(np.prod([int(side) for side in sides.split(",")])) for sides in gathered]
    assert sizes and max(sizes) <= 8 * 3 * 16 * count


def test_a_split_bank_equals_a_whole_one() -> None:
    random = np.random.default_rng(0)
    bank, queries = (random.normal(size=(size, 6)).astype(np.float32) for size in (50, 9))
    context = world(devices=4).context
    found = [knn.finder(c, 20, 4)(queries, bank) for c in (context, dataclasses.replace(context, mesh=None))]
    for split, plain in zip(*found, strict=True):
        np.testing.assert_array_equal(split, plain)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_model_that_says_nothing_is_never_right(whiten: bool) -> None:
    for value in (0.0, 1.0, np.nan):
        constant = lambda count, value=value: np.full((count, 1, 1, 4), value, np.float32)
        w = probed.world(constant(8), list("abcdabcd"), constant(4), list("abcd"))
        assert set(w.evaluate(**SPEC, k=[4, 8], whiten=whiten).values()) == {0.0}


def test_features_are_computed_once_for_all_evaluators_of_the_same_parameters() -> None:
    w = world()
    evaluate = [knn.make(train="train", test="test", label="kind", prefix=p, context=w.context) for p in ("a", "b")]
    params, others = {"w": 1}, {"w": 1}
    first, second = (list(one(params)) for one in evaluate)
    assert (w.asked == 1).all()
    assert [value for _, value in first] == [value for _, value in second]
    list(evaluate[0](others))  # Equal, but another object: it may hold other numbers.
    assert (w.asked == 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": [100]}, r"config\.evals\.test: k = \[100\].*no larger than the number of training images, 61"),
        ({"k": [0, 5]}, "must be above 0"),
        ({"temperature": 0.0}, "temperature = 0.0 must be above 0"),
        ({"label": "knd"}, r"config\.evals\.test.*'knd': did you mean 'kind'"),
        ({"batch_size": 0}, r"config\.evals\.test\.batch_size = 0"),
        ({"temprature": 1.0}, "did you mean 'temperature'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_embedded(change: dict[str, Any], message: str) -> None:
    w = world()
    with pytest.raises(ConfigError, match=message):
        w.evaluate(**{**SPEC, **change})
    assert not w.batches


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((["a", "b"], ["a", "c", "d"]), r"2 classes of 'test', such as 'c', have no image in 'train'.*Give a `train`"),
        ((["a", "a"], ["a"]), r"label = 'kind' is 'a' all over 'train'"),
        (([("a", "b"), ("a",)], [("a",)]), r"label = 'kind': \('a', 'b'\) is no class"),
        (([0.5, 1.5], [0.5]), r"label = 'kind': 0\.5 is no class"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: tuple[list[Any], list[Any]], message: str) -> None:
    features = [np.ones((len(side), 1, 1, 4)) for side in labels]
    with pytest.raises(ConfigError, match=message):
        probed.world(features[0], labels[0], features[1], labels[1]).evaluate(**SPEC, k=[1])


def test_whole_numbers_are_classes_as_texts_are() -> None:
    named, numbered = world(), world()
    for w, kinds in ((named, NAMES), (numbered, np.array([3, 10, -1, 2]))):
        for source in ("train", "test"):
            for example in w.context.open_source(source):
                example["kind"] = kinds[list(NAMES).index(example["kind"])]
    assert named.evaluate(**SPEC) == numbered.evaluate(**SPEC)
