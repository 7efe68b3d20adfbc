"""The triplet loss equals an independent one in NumPy, triplet by triplet in float64, with its gradient."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.reference import relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT
from vitfm.losses.triplet import triplet
from vitfm.models.two_towers import unit
from vitfm.objectives import triplet as triplets

LABELS = {
    "balanced": np.repeat(np.arange(6), 4),
    "uneven, some alone": np.array([0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 5, 5]),
    "shuffled": np.random.default_rng(0).integers(0, 5, 23),
    "two rows": np.array([0, 0, 1]),
}


def mined(distance: np.ndarray, label: np.ndarray, mining: str) -> list[tuple[int, int, int]]:
    """Schroff et al. 2015, section 3.2: the triplets (anchor, positive, negative)."""
    found = []
    for a in range(len(label)):
        positives = [p for p in range(len(label)) if label[p] == label[a] and p != a]
        negatives = [n for n in range(len(label)) if label[n] != label[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            hardest = max(positives, key=lambda p: distance[a, p])
            found.append((a, hardest, min(negatives, key=lambda n: distance[a, n])))
            continue
        for p in positives:
            if mining == "all":
                found += [(a, p, n) for n in negatives]
                continue
            further = [n for n in negatives if distance[a, n] > distance[a, p]]
            if further:
                found.append((a, p, min(further, key=lambda n: distance[a, n])))
            else:
                found.append((a, p, max(negatives, key=lambda n: distance[a, n])))
    return found


def reference(x: np.ndarray, label: np.ndarray, margin: float, mining: str) -> tuple[float, np.ndarray, float]:
    """The loss, its gradient by `x` before normalisation, and the share of triplets that count."""
    sizes = np.linalg.norm(x, axis=1, keepdims=True)
    rows = x / sizes
    distance = np.array([[((one - other) ** 2).sum() for other in rows] for one in rows])
    value, by_rows, active = 0.0, np.zeros_like(rows), 0
    chosen = mined(distance, label, mining)
    for a, p, n in chosen:
        gap = distance[a, p] - distance[a, n] + margin
        if gap > 0:
            value, active = value + gap / len(chosen), active + 1
            by_rows[a] += 2 * (rows[n] - rows[p]) / len(chosen)
            by_rows[p] += 2 * (rows[p] - rows[a]) / len(chosen)
            by_rows[n] += 2 * (rows[a] - rows[n]) / len(chosen)
    return value, (by_rows - rows * (by_rows * rows).sum(1, keepdims=True)) / sizes, active / len(chosen)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all"])
def test_mining_equals_numpy(labels: str, mining: str):
    label, margin = LABELS[labels], 1.0 if "uneven" in labels else 0.2
    rng = np.random.default_rng(len(label))
    x = rng.normal(size=(len(label), 7)) + 0.7 * rng.normal(size=(6, 7))[label]  # Classes, but not apart.
    value, gradient, active = reference(x, label, margin, mining)
    loss = lambda x: triplet(unit(x), jnp.asarray(label), margin, mining)
    (ours, share), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x.astype(np.float32))
    np.testing.assert_allclose(share, active, rtol=1e-6)
    if active == 0:
        assert ours == 0 and not np.any(grad)
        return
    assert relative_error(ours, value) < FORWARD
    assert relative_error(grad, gradient) < GRADIENT


def test_some_triplets_are_violated_and_some_are_not():
    """Or the comparisons above would prove little."""
    label = LABELS["shuffled"]
    x = np.random.default_rng(len(label)).normal(size=(len(label), 7))
    assert all(0.1 < reference(x, label, 0.2, mining)[2] < 1 for mining in ("semi-hard", "all"))


@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all"])
@pytest.mark.parametrize("label", [[0, 0, 0], [0, 1, 2]], ids=["one class", "no pair"])
def test_without_triplets_there_is_no_loss(mining: str, label: list[int]):
    rows = unit(np.random.default_rng(0).normal(size=(3, 5)))
    (value, share), grad = jax.value_and_grad(lambda x: triplet(x, jnp.array(label), 0.2, mining), has_aux=True)(rows)
    assert value == share == 0 and not np.any(grad)


def test_distances_are_squared():
    """torch's TripletMarginLoss takes plain ones; of their squares it is FaceNet's."""
    rows = np.asarray(unit(np.random.default_rng(1).normal(size=(3, 5))))
    squared = lambda a, b: (a - b).square().sum(-1)
    theirs = torch.nn.TripletMarginWithDistanceLoss(distance_function=squared, margin=3.0)
    a, p, n = torch.tensor(rows)[:, None]
    wanted = (theirs(a, p, n) + theirs(p, a, n)) / 2
    assert wanted > 0.1
    assert relative_error(triplet(rows, jnp.array([0, 0, 1]), 3.0, "all")[0], wanted) < FORWARD


def test_the_embedding_is_of_unit_length_and_compared():
    facts = types.SimpleNamespace(image_size=16, num_classes=3, multi_label=False)
    model = {"patch_size": 8, "hidden_dim": 16, "depth": 1, "num_heads": 2, "pool": "cls"}
    ours = triplets.make(model=model, embed_dim=6, mining="all", data=facts)
    image = np.random.default_rng(2).normal(size=(6, 16, 16, 3)).astype(np.float32)
    batch = {"image": image, "label": jnp.array([0, 0, 1, 1, 2, 2])}
    start = jax.jit(ours.init)(jax.random.key(0), batch)
    rows = jax.jit(ours.predict["embed_image"])(start.params, image)
    assert rows.shape == (6, 6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    value, aux = jax.jit(ours.loss)(start.params, {}, batch, jax.random.split(jax.random.key(0), 6), jnp.int32(0))
    assert relative_error(value, triplet(rows, batch["label"], 0.2, "all")[0]) < FORWARD
    assert aux.metrics.keys() == {"violated", "effective_rank", "accuracy", "uniformity"}
