"""MoCo's losses equal lightly's with a memory bank (v1, v2) and an independent NumPy one (v3); whole objectives too."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import networks
from tests.parity.reference import lightly, relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT, Row, converted, worst
from vitfm.losses import instance
from vitfm.models.two_towers import unit
from vitfm.objectives import base, moco


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit_rows(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def bank(queue: np.ndarray, temperature: float) -> Any:
    """lightly's loss with its memory full of `queue` [K,D]."""
    criterion = lightly.loss.NTXentLoss(temperature, memory_bank_size=queue.shape)
    criterion.memory_bank.bank = torch.tensor(queue.copy())
    return criterion


@pytest.mark.parametrize(
    ("batch", "length", "width", "temperature"), [(2, 8, 5, 0.07), (16, 48, 32, 0.2), (5, 128, 7, 0.5)]
)
def test_queued_loss_equals_lightly(batch: int, length: int, width: int, temperature: float):
    queue, query, key = unit_rows(drawn(1, length, width)), drawn(2, batch, width), drawn(3, batch, width)
    theirs = torch.tensor(query, requires_grad=True)
    value = bank(queue, temperature)(theirs, torch.tensor(key))
    value.backward()
    loss = lambda query: instance.queued(unit(query), unit(key), queue, temperature)[0]
    ours, gradient = jax.value_and_grad(loss)(query)
    assert value > 0.1
    assert relative_error(ours, value) < FORWARD
    assert relative_error(gradient, theirs.grad) < GRADIENT


def contrast(query: np.ndarray, key: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
    """Chen et al. 2021, algorithm 1, `ctr`, in float64, row by row; and its gradient by the query."""
    query, key = query.astype(np.float64), key.astype(np.float64)
    value, gradient = 0.0, np.zeros_like(query)
    for row in range(len(query)):
        scores = np.array([query[row] @ other / temperature for other in key])
        shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        value -= 2 * temperature * np.log(shares[row]) / len(query)
        gradient[row] = 2 * (shares @ key - key[row]) / len(query)
    return value, gradient


@pytest.mark.parametrize(("batch", "width", "temperature"), [(3, 5, 0.2), (32, 16, 1.0), (17, 8, 0.07)])
def test_matched_loss_equals_numpy(batch: int, width: int, temperature: float):
    query, key = unit_rows(drawn(1, batch, width)), unit_rows(drawn(2, batch, width))
    value, gradient = contrast(query, key, temperature)
    ours, grad = jax.value_and_grad(lambda query: instance.matched(query, key, temperature)[0])(query)
    assert value > 0.1
    assert relative_error(ours, value) < FORWARD
    assert relative_error(grad, gradient) < GRADIENT


# Whole objectives: encoder, heads, teacher, loss.

BATCH = 6


def made(**options: Any) -> base.Objective:
    facts = types.SimpleNamespace(image_size=networks.SIZE)
    return moco.make(
        model=networks.MODEL,
        hidden_dim=40,
        out_dim=16,
        temperature=0.3,
        momentum=0.9,
        data=facts,
        schedule=lambda spec, where: lambda step: spec,
        **options,
    )


def student_rows(layers: int, last: str | None) -> list[Row]:
    rows = networks.below("encoder", "0", networks.VIT)
    return rows + networks.below("head", "1", networks.head_rows(layers, bool(last), last))


def loss_and_gradients(objective: base.Objective, params: Any, extra: Mapping[str, Any], images: np.ndarray) -> Any:
    batch, keys = {"views": {"global": images}}, jax.random.split(jax.random.key(0), len(images))
    loss = lambda params: objective.loss(params, extra, batch, keys, jnp.int32(0))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def shapes(objective: base.Objective) -> Any:
    batch = {"views": {"global": networks.pictures(0, 1)}}
    return jax.eval_shape(lambda: objective.init(jax.random.key(0), batch)).params


@pytest.mark.parametrize(("version", "layers"), [("v1", 1), ("v2", 2)])
def test_objective_with_a_queue_equals_timm_under_lightly(version: str, layers: int):
    network = lambda: torch.nn.Sequential(networks.vit(), networks.head(networks.WIDTH, 40, 16, layers, False))
    student, teacher = (networks.randomised(network(), seed) for seed in (1, 2))
    images, queue = networks.pictures(layers, BATCH), unit_rows(drawn(5, 24, 16))
    found = student(networks.as_torch(images[:, 0]))
    with torch.no_grad():
        seen = teacher(networks.as_torch(images[:, 1]))
    assert min(found.std(), seen.std()) > 0.1
    criterion = bank(queue, 0.3)
    value = criterion(found, seen)
    value.backward()

    ours, rows = made(version=version, queue=24), student_rows(layers, None)
    like = shapes(ours)
    params, teachers = (
        converted(rows, networks.summed(networks.learned(module), "0"), like) for module in (student, teacher)
    )
    (ours_value, aux), grads = loss_and_gradients(ours, params, {"teacher": teachers, "queue": queue}, images)
    assert relative_error(ours_value, value) < FORWARD
    assert worst(grads, converted(rows, networks.learned_gradients(student), like)) < (GRADIENT,)
    # Theirs overwrites the oldest rows in place; ours has them in the order of their age.
    assert relative_error(np.roll(aux.extra["queue"], BATCH, axis=0), criterion.memory_bank.bank) < FORWARD

    with torch.no_grad():  # `_momentum_update_key_encoder` of the authors' code, before the next step.
        for kept, new in zip(teacher.parameters(), student.parameters(), strict=True):
            kept.mul_(0.9).add_(0.1 * new)
    after = ours.after_update(params, {"teacher": teachers}, jnp.int32(0))["teacher"]
    assert worst(after, converted(rows, networks.summed(networks.learned(teacher), "0"), like)) < (FORWARD,)


def test_v3_equals_timm_under_its_algorithm():
    plain = lambda layers: [f"layers.{3 * (layers - 1) + 1}.{name}" for name in ("weight", "bias")]
    network = lambda: torch.nn.Sequential(networks.vit(), networks.head(networks.WIDTH, 40, 16, 3, True))
    student, teacher = (networks.randomised(network(), seed, [f"1.{n}" for n in plain(3)]) for seed in (1, 2))
    predictor = networks.randomised(networks.head(16, 40, 16, 2, True), 3, plain(2))
    images = networks.pictures(7, BATCH)
    normalise = torch.nn.functional.normalize
    queries = [predictor(student(networks.as_torch(images[:, view]))) for view in (0, 1)]  # Each view a batch.
    with torch.no_grad():
        keys = [normalise(teacher(networks.as_torch(images[:, view])), dim=1) for view in (0, 1)]
    assert min(torch.stack(queries).std(), torch.stack(keys).std()) > 0.1
    terms = [
        torch.nn.functional.cross_entropy(normalise(query, dim=1) @ key.T / 0.3, torch.arange(BATCH)) * 2 * 0.3
        for query, key in zip(queries, keys[::-1], strict=True)
    ]
    sum(terms).backward()
    numpy_terms = [
        contrast(unit_rows(query.detach().numpy()), key.numpy(), 0.3)[0]
        for query, key in zip(queries, keys[::-1], strict=True)
    ]

    ours, teacher_rows = made(version="v3"), student_rows(3, "plain")
    like = shapes(ours)
    rows = teacher_rows + networks.below("predictor", "2", networks.head_rows(2, True, "plain"))
    parts = lambda named, named_predictor: {**named, **{f"2.{name}": value for name, value in named_predictor.items()}}
    values = parts(networks.summed(networks.learned(student), "0"), networks.learned(predictor))
    gradients = parts(networks.learned_gradients(student), networks.learned_gradients(predictor))
    followed = {part: like[part] for part in ("encoder", "head")}
    teachers = converted(teacher_rows, networks.summed(networks.learned(teacher), "0"), followed)
    (value, _), grads = loss_and_gradients(ours, converted(rows, values, like), {"teacher": teachers}, images)
    assert relative_error(value, sum(numpy_terms)) < FORWARD
    theirs = converted(rows, gradients, like)
    assert networks.worst_but(grads, theirs, "encoder/transformer/norm/bias") < (GRADIENT,)
