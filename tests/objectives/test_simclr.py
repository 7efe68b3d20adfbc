"""SimCLR: what batch norm sees, and what is refused."""

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
from vitfm.losses import instance
from vitfm.models import heads, views
from vitfm.models.two_towers import unit
from vitfm.objectives import base, simclr

RESNET = {"name": "resnet", "stem_dim": 8, "depths": (1,), "hidden_dims": (16,)}
VIT = {"name": "vit", "patch_size": 8, "hidden_dim": 16, "depth": 1, "num_heads": 2}
FACTS = types.SimpleNamespace(image_size=16)


def made(model: Mapping[str, Any] = VIT, **options: Any) -> base.Objective:
    return simclr.make(model=model, data=FACTS, **{"hidden_dim": 24, "out_dim": 8, **options})


def batch_of(count: int, **shapes: tuple[int, int]) -> dict[str, Any]:
    """Views by name, each of so many and of such a size."""
    rng = np.random.default_rng(0)
    draw = lambda number, size: rng.normal(size=(count, number, size, size, 3)).astype(np.float32)
    return {"views": {name: draw(*shape) for name, shape in (shapes or {"global": (2, 16)}).items()}}


def test_batch_norm_sees_all_views_at_once_and_keeps_running_statistics():
    objective, batch, keys = made(RESNET), batch_of(6), train_step.example_keys(0, jnp.int32(0), 6)
    start = jax.jit(objective.init)(jax.random.key(0), batch)
    value, aux = jax.jit(objective.loss)(start.params, start.extra, batch, keys, jnp.int32(0))
    tower = models.make({**RESNET, "image_size": 16}, where="model", dtype=jnp.float32)
    images = batch["views"]["global"].reshape(12, 16, 16, 3)
    variables = {"params": start.params["encoder"], **start.extra}
    features, changed = tower.apply(variables, images, keys=jax.random.split(keys[0], 12), mutable=["batch_stats"])
    rows = heads.Projection(24, 8, last_norm="scale").apply({"params": start.params["head"]}, features.pooled)
    assert value == pytest.approx(float(instance.nt_xent(unit(rows).reshape(6, 2, 8), 0.1)[0]), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), aux.extra, dict(changed))
    assert {"accuracy", "effective_rank", "alignment", "uniformity"} <= aux.metrics.keys()


def test_an_encoder_with_batch_statistics_refuses_accumulation_and_says_why():
    assert made().accumulate == "cached"
    with pytest.raises(ConfigError, match="refuses accumulation: its encoder normalises by the statistics"):
        train_step.gradients_of(made(RESNET), lambda batch, keys: batch, 2)


def test_every_view_draws_for_itself():
    drawn = jax.random.key_data(views.keys_of(train_step.example_keys(0, jnp.int32(0), 3), 2))
    assert len(np.unique(np.asarray(drawn).reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "config.objective.temperature = 0.0 must be above 0"),
        ({"head_layers": 0}, "config.objective.head_layers = 0 must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"global": (1, 16)}, "config.data.views has 1 'global'"),
        ({"global": (3, 16)}, "has 3 'global'"),
        ({"global": (2, 16), "local": (4, 8)}, "has 2 'global', 4 'local'"),
    ],
)
def test_views_that_are_not_two_are_refused_before_anything_compiles(shapes: dict[str, tuple[int, int]], words: str):
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(lambda: made().init(jax.random.key(0), batch_of(1, **shapes)))
