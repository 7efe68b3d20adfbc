"""MoCo: the queue, the teacher, groups of batch statistics, and what is refused."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import models, train_step
from vitfm.config import ConfigError
from vitfm.models import views
from vitfm.objectives import base, moco
from vitfm.optim import schedules

RESNET = {"name": "resnet", "stem_dim": 8, "depths": (1,), "hidden_dims": (16,)}
VIT = {"name": "vit", "patch_size": 8, "hidden_dim": 16, "depth": 1, "num_heads": 2}
TOTAL = 10


def schedule(spec: Any, where: str) -> Any:
    return schedules.value(spec, total=TOTAL, to_steps=lambda duration, where: TOTAL, where=where)


def made(model: Mapping[str, Any] = VIT, **options: Any) -> base.Objective:
    options = {"hidden_dim": 24, "out_dim": 8, "queue": 20 if options.get("version") != "v3" else None, **options}
    return moco.make(model=model, data=types.SimpleNamespace(image_size=16), schedule=schedule, **options)


def batch_of(count: int = 8) -> dict[str, Any]:
    images = np.random.default_rng(0).normal(size=(count, 2, 16, 16, 3)).astype(np.float32)
    return {"views": {"global": images}}


def keys(count: int = 8) -> jax.Array:
    return train_step.example_keys(0, jnp.int32(0), count)


def start(objective: base.Objective) -> base.Variables:
    return jax.jit(objective.init)(jax.random.key(0), batch_of(1))


def test_the_queue_is_first_in_first_out_and_starts_with_directions():
    objective = made()
    begun = start(objective)
    queue = begun.extra["queue"]
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-5)
    assert queue.shape == (20, 8)
    _, aux = jax.jit(objective.loss)(begun.params, begun.extra, batch_of(), keys(), jnp.int32(0))
    np.testing.assert_array_equal(aux.extra["queue"][:12], queue[8:])
    np.testing.assert_allclose(np.linalg.norm(aux.extra["queue"][12:], axis=1), 1, rtol=1e-5)
    # The keys are the teacher's of the second view: a student that moved changes none of them.
    moved = jax.tree.map(lambda x: 1.1 * x + 0.1, begun.params)
    _, other = jax.jit(objective.loss)(moved, begun.extra, batch_of(), keys(), jnp.int32(0))
    np.testing.assert_array_equal(other.extra["queue"], aux.extra["queue"])
    swapped = {"views": {"global": batch_of()["views"]["global"][:, ::-1]}}
    _, other = jax.jit(objective.loss)(begun.params, begun.extra, swapped, keys(), jnp.int32(0))
    assert np.abs(other.extra["queue"][12:] - aux.extra["queue"][12:]).max() > 0.01


def test_the_teacher_gets_no_gradient():
    for version in ("v2", "v3"):
        objective = made(version=version)
        begun = start(objective)
        loss = lambda extra, o=objective, b=begun: o.loss(b.params, extra, batch_of(), keys(), jnp.int32(0))[0]
        gradient = jax.jit(jax.grad(loss))(begun.extra)["teacher"]
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_the_teacher_moves_with_the_momentum_of_the_step_that_will_see_it():
    objective = made(version="v3", momentum={"name": "cosine", "start": 0.9, "end": 1.0})
    begun = start(objective)
    assert begun.extra.keys() == {"teacher"} and begun.extra["teacher"].keys() == {"encoder", "head"}
    student = jax.tree.map(lambda x: x + 1, begun.params)
    after = objective.after_update(student, begun.extra, jnp.int32(4))["teacher"]
    for part in ("encoder", "head"):  # Halfway, at step 5, momentum is 0.95.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b + 0.05, atol=1e-5), after[part], begun.extra["teacher"][part]
        )
    followed = objective.started(student, begun.extra)["teacher"]
    jax.tree.map(np.testing.assert_array_equal, followed, {part: student[part] for part in followed})


@pytest.mark.parametrize("strided", [False, True])
def test_groups_have_statistics_of_their_own(strided: bool):
    tower = models.make({**RESNET, "image_size": 16}, where="model", dtype=jnp.float32)
    images = batch_of()["views"]["global"][:, :1]
    variables = tower.init(jax.random.key(0), images[:, 0])
    extra = {"batch_stats": variables["batch_stats"]}
    encoded = lambda groups: views.encoded(tower, variables["params"], extra, images, keys(), groups, strided)
    grouped, changed = jax.jit(encoded, static_argnums=0)(2)
    members = [slice(0, 8, 2), slice(1, 8, 2)] if strided else [slice(0, 4), slice(4, 8)]
    means = []
    for rows in members:
        alone, kept = tower.apply(variables, images[rows, 0], keys=keys()[rows], mutable=["batch_stats"])
        np.testing.assert_allclose(grouped[rows, 0], alone.pooled, rtol=1e-4, atol=1e-5)
        means.append(kept["batch_stats"])
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *means)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), changed["batch_stats"], mean)
    assert np.abs(encoded(1)[0] - grouped).max() > 1e-2


def test_images_that_share_statistics_as_queries_do_not_as_keys():
    """Of 32 rows in 4 groups, a query's group of 8 meets each key's group in 2."""
    queries = np.arange(32).reshape(4, 8)
    strided = np.arange(32).reshape(8, 4).T
    assert all(len(set(q) & set(k)) == 2 for q in queries for k in strided)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "config.objective.temperature = -1.0 must be above 0"),
        ({"momentum": 1.5}, "config.objective.momentum = 1.5 must be from 0 to 1"),
        ({"queue": 0}, "config.objective.queue = 0 must be at least 1"),
        ({"queue": 20, "version": "v3"}, "config.objective.queue = 20: v3's negatives are the batch's own"),
        ({"groups": 0}, "config.objective.groups = 0 must be at least 1"),
        ({"groups": 2}, "config.objective.groups = 2 splits the batch statistics of an encoder that has some"),
        ({"groups": 2, "model": RESNET, "version": "v3"}, "config.objective.groups = 2 splits"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": 4}, "A batch of 8 is longer than config.objective.queue = 4"),
        ({"model": RESNET, "groups": 3}, "A batch of 8 does not divide into config.objective.groups = 3"),
    ],
)
def test_batches_that_do_not_fit_are_refused_before_anything_compiles(options: dict[str, Any], words: str):
    objective = made(**options)
    begun = jax.eval_shape(lambda: objective.init(jax.random.key(0), batch_of(1)))
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(objective.loss, begun.params, begun.extra, batch_of(), keys(), jnp.int32(0))
