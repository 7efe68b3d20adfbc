"""DINO's loss, centre and assignments, against what NumPy says in float64, and what must not depend on what."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vitfm.losses import distillation


def drawn(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def by_pairs(targets: np.ndarray, logits: np.ndarray) -> float:
    """The mean over images and pairs of different views, one by one."""
    losses = [
        -(targets[image, one] * np.log(softmax(logits[image, other]))).sum()
        for image in range(len(targets))
        for one in range(targets.shape[1])
        for other in range(logits.shape[1])
        if one != other
    ]
    return float(np.mean(losses))


@pytest.mark.parametrize(
    ("batch", "teacher", "student", "count"), [(1, 1, 2, 3), (4, 2, 2, 7), (3, 2, 8, 16), (2, 3, 4, 5)]
)
def test_every_pair_of_different_views_counts_once(batch: int, teacher: int, student: int, count: int):
    targets, logits = softmax(drawn(0, batch, teacher, count)), drawn(1, batch, student, count, scale=5)
    ours = distillation.cross_view(jnp.asarray(targets, jnp.float32), logits)
    assert ours == pytest.approx(by_pairs(targets, logits), rel=1e-5)


def test_same_view_pairs_contribute_nothing():
    targets, logits = jnp.asarray(softmax(drawn(0, 3, 2, 7)), jnp.float32), drawn(1, 3, 4, 7, scale=3)
    gradient = jax.grad(distillation.cross_view, argnums=1)
    other_targets = targets.at[:, 0].set(targets[:, 0, ::-1])
    before, after = gradient(targets, logits), gradient(other_targets, logits)
    np.testing.assert_array_equal(before[:, 0], after[:, 0])  # What the teacher saw in view 0 does not move view 0,
    assert (np.abs(before[:, 1:] - after[:, 1:]).max((0, 2)) > 1e-3).all()  # but every other one.
    alone = gradient(targets[:, :1], logits)
    assert not alone[:, 0].any()
    assert np.abs(alone[:, 1:]).max() > 1e-3


def test_the_gradient_is_the_difference_of_the_distributions():
    targets, logits = softmax(drawn(0, 2, 2, 5)), drawn(1, 2, 3, 5, scale=4)
    ours = jax.grad(distillation.cross_view, argnums=1)(jnp.asarray(targets, jnp.float32), logits)
    theirs = np.zeros(logits.shape)
    for one, other in ((0, 1), (0, 2), (1, 0), (1, 2)):
        theirs[:, other] += (softmax(logits[:, other]) - targets[:, one]) / (2 * 4)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_teacher_is_centred_and_sharpened():
    logits, center = drawn(0, 3, 2, 6), drawn(1, 6)
    np.testing.assert_allclose(distillation.centred(logits, center, 0.04), softmax((logits - center) / 0.04), atol=1e-5)
    # A centre that is the logits themselves leaves nothing to choose by.
    np.testing.assert_allclose(distillation.centred(logits, logits, 0.04), np.full_like(logits, 1 / 6), rtol=1e-6)


def test_the_centre_is_a_moving_average_over_images_and_views():
    center, logits = drawn(0, 6), drawn(1, 4, 2, 6)
    ours = distillation.next_center(center, logits, 0.9)
    np.testing.assert_allclose(ours, 0.9 * center + 0.1 * logits.reshape(8, 6).mean(0), rtol=1e-5, atol=1e-7)
    halves = [distillation.next_center(center, part, 0.9) for part in (logits[::2], logits[1::2])]
    np.testing.assert_allclose(sum(halves) / 2, ours, rtol=1e-5, atol=1e-7)  # So accumulation by the mean is exact.


def knopp(logits: np.ndarray, temperature: float, rounds: int) -> np.ndarray:
    """Rows and columns scaled by turns, in float64 and not in logarithms, on a matrix of prototypes x rows."""
    matrix = np.exp(logits.astype(np.float64).reshape(-1, logits.shape[-1]) / temperature).T
    matrix /= matrix.sum()
    prototypes, rows = matrix.shape
    for _ in range(rounds):
        matrix /= matrix.sum(axis=1, keepdims=True) * prototypes
        matrix /= matrix.sum(axis=0, keepdims=True) * rows
    return (matrix * rows).T.reshape(logits.shape)


@pytest.mark.parametrize("shape", [(8, 4), (5, 2, 9), (3, 2, 40)])
@pytest.mark.parametrize(("temperature", "rounds"), [(1.0, 1), (0.1, 3), (0.04, 3)])
def test_sinkhorn_equals_an_independent_one(shape: tuple[int, ...], temperature: float, rounds: int):
    logits = np.clip(drawn(2, *shape, scale=0.3), -1, 1)
    ours, theirs = distillation.sinkhorn(logits, temperature, rounds), knopp(logits, temperature, rounds)
    np.testing.assert_allclose(ours, theirs, rtol=3e-4, atol=1e-7)


def test_sinkhorn_shares_the_prototypes_out():
    logits = 0.2 * drawn(3, 64, 8) + np.eye(8)[0]  # Left to themselves all rows would take the first prototype.
    assert (softmax(logits / 0.1).mean(0)[1:] < 0.02).all()
    shares = distillation.sinkhorn(logits, 0.1, rounds=50)
    np.testing.assert_allclose(shares.sum(1), np.ones(64), rtol=1e-5)
    np.testing.assert_allclose(shares.mean(0), np.full(8, 1 / 8), rtol=1e-2)
    few = distillation.sinkhorn(logits, 0.1)
    np.testing.assert_allclose(few.sum(1), np.ones(64), rtol=1e-5)
    assert few.mean(0).max() < 0.2


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_padding_takes_no_share_of_the_prototypes(temperature: float):
    logits, valid = np.clip(drawn(7, 6, 5, 9, scale=0.3), -1, 1), np.random.default_rng(8).random((6, 5)) < 0.6
    ours = np.asarray(distillation.sinkhorn(logits, temperature, valid=jnp.asarray(valid)))
    np.testing.assert_allclose(ours[valid], knopp(logits[valid], temperature, 3), rtol=3e-4, atol=1e-7)
    assert np.isfinite(ours).all()
    other = distillation.sinkhorn(np.where(valid[..., None], logits, 50), temperature, valid=jnp.asarray(valid))
    np.testing.assert_array_equal(other[valid], ours[valid])


def test_sinkhorn_is_float32_and_never_overflows():
    shares = distillation.sinkhorn(jnp.asarray(drawn(4, 16, 2, 8, scale=30), jnp.bfloat16), 0.01)
    assert shares.dtype == jnp.float32
    np.testing.assert_allclose(shares.sum(-1), np.ones((16, 2)), rtol=1e-5)


def test_the_whole_global_batch_shares_the_prototypes():
    logits, center = drawn(5, 16, 2, 12), drawn(6, 12)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(logits, NamedSharding(mesh, PartitionSpec("data")))
    assert len(split.addressable_shards) == 8
    for function in (lambda x: distillation.sinkhorn(x, 0.1), lambda x: distillation.next_center(center, x, 0.9)):
        whole = function(logits)
        np.testing.assert_allclose(jax.jit(function)(split), whole, rtol=1e-4, atol=1e-7)
        half = function(logits[:8])  # A batch of half of it gives something else.
        assert np.abs(whole[: len(half)] - half).max() > 1e-3
