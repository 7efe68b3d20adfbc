"""Rotation: what is turned, and that batch statistics are of all turns."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np

from vitfm import models, train_step
from vitfm.objectives import rotation

RESNET = {"name": "resnet", "stem_dim": 8, "depths": (1,), "hidden_dims": (16,)}


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 16, 16, 3)).astype(np.float32)


def test_four_turns_of_every_image():
    turned = np.asarray(rotation.turned(images()))
    for turns in range(4):
        for row in range(3):
            np.testing.assert_array_equal(turned[row, turns], np.rot90(images()[row], turns))
    np.testing.assert_array_equal(turned[:, 1, 0, 0], images()[:, 0, -1])  # Counterclockwise: right above goes left.


def test_running_statistics_are_of_all_turns():
    objective = rotation.make(model=RESNET, data=types.SimpleNamespace(image_size=16))
    batch, keys = {"image": images()}, train_step.example_keys(0, jnp.int32(0), 3)
    start = jax.jit(objective.init)(jax.random.key(0), batch)
    _, aux = jax.jit(objective.loss)(start.params, start.extra, batch, keys, jnp.int32(0))
    tower = models.make({**RESNET, "image_size": 16}, where="model", dtype=jnp.float32)
    rows = rotation.turned(images()).reshape(12, 16, 16, 3)
    variables = {"params": start.params["encoder"], **start.extra}
    _, changed = tower.apply(variables, rows, keys=jax.random.split(keys[0], 12), mutable=["batch_stats"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), aux.extra, dict(changed))
    assert objective.accumulate is None
    assert aux.metrics.keys() == {"accuracy", "effective_rank"}
