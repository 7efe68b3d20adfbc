"""A probe is SGD as NumPy does it, for every setting at once; held-out images choose, and test images count once."""

from typing import Any

import numpy as np
import pytest

from tests.evals import probed
from tests.evals.fake import World
from vitfm.config import ConfigError
from vitfm.evals import embeddings, linear_probe, probing
from vitfm.evals.linear_probe import Choice

LENGTHS = {"learning_rates": [0.1, 1.0], "minibatch_size": 50}  # The same shapes in many tests, so few compilations.
SPEC = {"name": "linear_probe", "train": "train", "test": "test", "label": "kind", "prefix": "p", **LENGTHS}
ALL = [Choice(1, False), Choice(1, True), Choice(4, False), Choice(4, True)]
P = "p/linear_probe"


def world(shape: tuple[int, ...] = (4, 2, 6), spread: float = 2.0, devices: int = 1) -> World:
    train, test = probed.clouds(203, 7, shape, 0, spread), probed.clouds(101, 7, shape, 1, spread)
    return probed.world(train[0], train[1].tolist(), test[0], test[1].tolist(), devices)


def informative(where: tuple[Any, ...], seed: int) -> tuple[np.ndarray, list[int]]:
    """Features [203, 4, 2, 6] that tell of the class at `where` alone."""
    features, labels = probed.clouds(203, 7, (4, 2, 6), seed, spread=0.5)
    noise = np.random.default_rng(seed + 10).normal(size=features.shape)
    noise[where] = features[where]
    return noise, labels.tolist()


def slow_sgd(x: np.ndarray, labels: np.ndarray, rate: float, epochs: int, size: int, classes: int) -> np.ndarray:
    """Kernel and bias [F + 1, K] in float64 by plain loops over the batches that `fit` says it takes."""
    x = (x - x.mean(0)) / (x.std(0) + 1e-5)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    weights = velocity = np.zeros((x.shape[1], classes))
    steps = round(epochs * len(x) / size)
    order = np.concatenate([np.random.default_rng(i).permutation(len(x)) for i in range(epochs + 1)])
    for step in range(steps):
        rows = order[step * size : (step + 1) * size]
        logits = x[rows] @ weights
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        velocity = 0.9 * velocity + x[rows].T @ (shares - np.eye(classes)[labels[rows]]) / len(rows)
        weights = weights - rate * size / 256 * (1 + np.cos(np.pi * step / steps)) / 2 * velocity
    return weights


@pytest.mark.parametrize("devices", [1, 8])
def test_every_setting_is_trained_as_plain_sgd_trains_it_alone(devices: int) -> None:
    w = world(devices=devices)
    features, labels = probed.clouds(90, 3, (4, 2, 6), 0)
    features *= np.random.default_rng(1).uniform(0.1, 30, features.shape[1:])  # Widths that only standardising levels.
    rates = (0.1, 1.0, 7.0)
    lengths = {"classes": 3, "epochs": 4, "minibatch_size": 27}  # Batches that do not divide among the devices.
    probe = linear_probe.fit(w.context, features, labels, np.arange(90), ALL, rates, **lengths)
    for choice in ALL:
        tokens = features[:, 4 - choice.blocks :, 0].reshape(90, -1)
        x = np.concatenate([features[:, -1, 1], tokens], axis=1) if choice.mean_patches else tokens
        for number, rate in enumerate(rates):
            expected = slow_sgd(x.astype(float), labels, rate, 4, 27, 3)
            found = np.asarray(probe.kernels[choice][:, number])
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    alone = linear_probe.fit(w.context, features, labels, np.arange(90), [ALL[2]], [1.0], **lengths)
    np.testing.assert_allclose(alone.kernels[ALL[2]][:, 0], probe.kernels[ALL[2]][:, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_what_can_be_told_apart_is(devices: int) -> None:
    w = world(spread=0.3, devices=devices)
    found = w.evaluate(**SPEC, batch_size=33)
    assert (w.asked == 1).all()
    assert {size % devices for size in w.batches} == {0}
    assert found[f"{P}/top1"] == found[f"{P}/top5"] == found[f"{P}/heldout_top1"] == 1
    assert found[f"{P}/learning_rate"] == 0.1 and found[f"{P}/blocks"] == 1  # All are right: the smallest is taken.


def test_one_device_and_eight_measure_the_same() -> None:
    one, eight = (world(spread=4.0, devices=devices).evaluate(**SPEC) for devices in (1, 8))
    assert one == pytest.approx(eight)
    assert 0.3 < one[f"{P}/top1"] < one[f"{P}/top5"] < 1
    assert one[f"{P}/top1_low"] < one[f"{P}/top1"] < one[f"{P}/top1_high"]


def test_labels_without_reason_stay_at_chance() -> None:
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(603, 4, 2, 6)), random.integers(4, size=603).tolist()
    found = probed.world(features[:203], labels[:203], features[203:], labels[203:]).evaluate(**SPEC)
    assert abs(found[f"{P}/top1"] - 0.25) < 0.07
    assert found[f"{P}/top1_low"] < 0.25 < found[f"{P}/top1_high"]
    assert f"{P}/top5" not in found  # Of four classes every answer is among the first five.


@pytest.mark.parametrize(
    ("where", "blocks", "mean"),
    [(np.s_[:, 3, 0], 1, {0}), (np.s_[:, 3, 1], 1, {1}), (np.s_[:, 0, 0], 4, {0, 1})],
    ids=["last class token", "mean of patches", "an early block"],
)
def test_held_out_images_choose_the_features_that_tell(where: tuple[Any, ...], blocks: int, mean: set[int]) -> None:
    train, test = informative(where, 0), informative(where, 1)
    found = probed.world(*train, *test).evaluate(**SPEC)
    assert found[f"{P}/blocks"] == blocks and found[f"{P}/mean_patches"] in mean
    assert found[f"{P}/top1"] > 0.8  # One of 7 classes.
    mixed = np.random.default_rng(2).permutation(test[1]).tolist()  # What is tested has no say in the choice.
    other = probed.world(*train, test[0], mixed).evaluate(**SPEC)
    same = [f"{P}/{name}" for name in ("blocks", "mean_patches", "learning_rate", "heldout_top1")]
    assert [other[name] for name in same] == [found[name] for name in same]
    assert other[f"{P}/top1"] < 0.5


def test_models_without_class_token_and_shallow_ones_have_fewer_choices() -> None:
    assert linear_probe.choices_of(np.zeros((9, 4, 2, 6)), (1, 4)) == ALL
    assert linear_probe.choices_of(np.zeros((9, 4, 1, 6)), (4, 1)) == [Choice(1, False), Choice(4, False)]
    assert linear_probe.choices_of(np.zeros((9, 1, 1, 6)), (1, 4)) == [Choice(1, False)]
    found = world(shape=(3, 1, 6)).evaluate(**SPEC)
    assert found[f"{P}/top1"] > 0.5 and found[f"{P}/mean_patches"] == 0


def test_ties_and_nans_count_against() -> None:
    features, labels = np.ones((3, 1, 1, 2), np.float32), np.array([0, 1, 2])
    kernels = np.zeros((3, 3, 4), np.float32)  # One setting says nothing, one is broken, one puts 0 before 1, 2 and 3.
    kernels[:, 1], kernels[0, 2] = np.nan, [4, 3, 2, 1]
    probe = linear_probe.Probe({Choice(1, False): kernels})
    found = linear_probe.ranks(world().context, probe, features, labels, np.arange(3))
    assert found.tolist() == [[[3, 3, 3], [3, 3, 3], [0, 1, 2]]]


def test_the_interval_is_wilsons() -> None:
    assert probing.wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    assert probing.wilson(0, 10) == pytest.approx((0, 0.27754), abs=1e-4)
    assert probing.wilson(10, 10) == pytest.approx((0.72246, 1), abs=1e-4)


def test_standardisation_keeps_digits_beside_a_large_mean() -> None:
    random = np.random.default_rng(0)
    features = (1000 + random.normal(size=(9000, 3))).astype(np.float32)
    rows = random.permutation(9000)[:8500]
    mean, deviation = embeddings.standardization(features, rows)
    exact = features[rows].astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(deviation, exact.std(0) + 1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rates": []}, r"config\.evals\.test\.learning_rates = \[\]: at least one, and all above 0"),
        ({"learning_rates": [0.1, -1.0]}, "all above 0"),
        ({"blocks": [0]}, r"config\.evals\.test\.blocks = \[0\]"),
        ({"epochs": 0}, r"config\.evals\.test\.epochs = \[0\]"),
        ({"minibatch_size": 0}, r"must be at least 1"),
        ({"heldout": 0.0}, r"config\.evals\.test\.heldout = 0\.0 leaves one part of 203 images empty"),
        ({"heldout": 1.0}, r"leaves one part of 203 images empty"),
        ({"label": "knd"}, "did you mean 'kind'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_embedded(change: dict[str, Any], message: str) -> None:
    w = world()
    with pytest.raises(ConfigError, match=message):
        w.evaluate(**{**SPEC, **change})
    assert not w.batches
