"""Few-shot accuracy is ridge regression as NumPy solves it, on the images it says it draws."""

from typing import Any

import numpy as np
import pytest

from tests.evals import probed
from tests.evals.fake import World
from vitfm.config import ConfigError
from vitfm.evals import fewshot

SPEC = {"name": "fewshot", "train": "train", "test": "test", "label": "kind", "prefix": "p"}


def world(devices: int = 1, spread: float = 2.0) -> World:
    train, test = probed.clouds(120, 5, (3, 2, 9), 0, spread), probed.clouds(77, 5, (3, 2, 9), 1, spread)
    return probed.world(train[0], train[1].tolist(), test[0], test[1].tolist(), devices)


def big_vision(x: np.ndarray, labels: np.ndarray, classes: int, ridge: float, constant: float) -> np.ndarray:
    """Weights [D + 1, K] for standardised features and a constant one, by the normal equations in float64."""
    x = (x.astype(float) - x.mean(0, dtype=float)) / (x.std(0, dtype=float) + 1e-5)
    x = np.concatenate([x, np.full((len(x), 1), constant)], axis=1)
    targets = 2.0 * np.eye(classes)[labels] - 1
    return np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ targets)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("images", [4, 13, 200])
@pytest.mark.parametrize("ridge", [1.0, 1024.0])
def test_the_solution_is_that_of_the_normal_equations(devices: int, images: int, ridge: float) -> None:
    random = np.random.default_rng(images)
    x = (random.normal(size=(images, 9)) * random.uniform(0.1, 10, 9) + random.normal(size=9)).astype(np.float32)
    labels = random.integers(3, size=images)
    found = fewshot.solve(world(devices).context, x, labels, 3, ridge)
    expected = big_vision(x, labels, 3, ridge, constant=1e5)  # So large that it costs nothing to use.
    new = random.normal(size=(20, 9)).astype(np.float32)
    standard = (new - x.mean(0, dtype=float)) / (x.std(0, dtype=float) + 1e-5)
    np.testing.assert_allclose(
        new @ found[:-1] + found[-1], standard @ expected[:-1] + 1e5 * expected[-1], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("devices", [1, 8])
def test_it_equals_big_visions_formula_image_by_image(devices: int) -> None:
    w = world(devices)
    found = w.evaluate(**SPEC, shots=[1, 5, 50], draws=3, batch_size=30)
    assert (w.asked == 1).all()
    assert {size % devices for size in w.batches} == {0}
    images = {name: w.context.open_source(name) for name in ("train", "test")}
    numbers = {name: np.array([example["image"] for example in images[name]]) for name in images}
    vectors = {name: np.asarray(w.context.predict["features"]({}, numbers[name]))[:, -1, 0] for name in images}
    labels = {name: np.array([example["kind"] for example in images[name]]) for name in images}
    for shots in (1, 5, 50):
        accuracies = []
        for draw in range(3):
            rows = fewshot.drawn(labels["train"], shots, draw)
            x = vectors["train"][rows]
            weights = big_vision(x, labels["train"][rows], 5, 1024.0, constant=100.0)
            standard = (vectors["test"] - x.mean(0)) / (x.std(0) + 1e-5)
            best = (np.pad(standard, ((0, 0), (0, 1)), constant_values=100.0) @ weights).argmax(1)
            accuracies.append(np.mean(best == labels["test"]))
        assert found.pop(f"p/fewshot/top1_{shots}shot") == pytest.approx(np.mean(accuracies))
        assert found.pop(f"p/fewshot/top1_{shots}shot_std") == pytest.approx(np.std(accuracies), abs=1e-9)
        assert (np.std(accuracies) > 0) == (shots < 50)  # Of 24 images a class there is but one draw of 50.
    assert not found


def test_more_images_tell_more() -> None:
    found = world(spread=4.0).evaluate(**SPEC, shots=[1, 5, 24])
    accuracies = [found[f"p/fewshot/top1_{shots}shot"] for shots in (1, 5, 24)]
    assert 0.2 < accuracies[0] < accuracies[1] < accuracies[2] < 1


def test_what_is_drawn() -> None:
    labels = np.array([0, 1, 2, 1, 0, 1, 0, 0, 0, 1])
    rows = fewshot.drawn(labels, 3, seed=0)
    assert sorted(labels[rows]) == [0, 0, 0, 1, 1, 1, 2]  # Of class 2 there is no more.
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(rows, fewshot.drawn(labels, 3, seed=0))
    assert set(fewshot.drawn(labels, 2, seed=0)) < set(rows)
    draws = {tuple(sorted(fewshot.drawn(labels, 3, seed))) for seed in range(20)}
    assert len(draws) > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": []}, r"config\.evals\.test: shots = \[\]"),
        ({"shots": [0, 5]}, "must be above 0"),
        ({"draws": 0}, "draws = 0"),
        ({"ridge": 0.0}, r"ridge = 0\.0 must be above 0"),
        ({"label": "knd"}, "did you mean 'kind'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_embedded(change: dict[str, Any], message: str) -> None:
    w = world()
    with pytest.raises(ConfigError, match=message):
        w.evaluate(**{**SPEC, **change})
    assert not w.batches
