"""DINOv2: who sees which patches, what moves whom, when the anchor moves; and what is refused."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_dino import batch_of, keys, schedule
from vitfm import train_step, tree
from vitfm.config import ConfigError
from vitfm.objectives import base, dinov2

MODEL = {"patch_size": 4, "hidden_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "scan": True, "registers": 1}
OPTIONS = {"prototypes": 24, "hidden_dim": 32, "bottleneck_dim": 16, "gram_weight": 1.0, "momentum": 0.9}


def made(model: Mapping[str, Any] = {}, **options: Any) -> base.Objective:
    data = types.SimpleNamespace(image_size=16)
    return dinov2.make(model={**MODEL, **model}, data=data, schedule=schedule, **{**OPTIONS, **options})


@functools.cache
def variables() -> base.Variables:
    """As after some training: teacher, centres and anchor are not what they start as."""
    init = jax.jit(functools.partial(made(centering="centre").init, batch=batch_of(1)))
    params, extra, anchor = (init(jax.random.key(seed)) for seed in range(3))
    centers = {name: 0.1 * jax.random.normal(jax.random.key(3), (24,)) for name in ("center", "patch_center")}
    return base.Variables(params.params, {**extra.extra, **centers, "gram": anchor.extra["gram"]})


@functools.cache
def loss_of(centering: str = "centre") -> Any:
    """(params, extra, keys, step) -> (loss, aux) over four examples."""
    objective, batch = made(centering=centering), batch_of(4)
    return jax.jit(lambda params, extra, key, step: objective.loss(params, extra, batch, key, step))


def test_only_the_student_is_moved_by_gradients_and_all_of_it():
    loss = lambda params, extra: loss_of()(params, extra, keys(4), jnp.int32(0))[0]
    start = variables()
    student, extra = jax.grad(loss, (0, 1))(start.params, start.extra)
    assert not any(leaf.any() for leaf in jax.tree.leaves(extra))
    assert not [name for name, leaf in tree.named_leaves(student) if not np.abs(leaf).max() > 1e-6]


def test_masks_hide_patches_of_the_student_alone():
    start = variables()
    (_, one), (_, other) = (loss_of()(start.params, start.extra, part, jnp.int32(0)) for part in np.split(keys(8), 2))
    for name in ("teacher_entropy", "effective_rank"):
        assert one.metrics[name] == other.metrics[name]
    np.testing.assert_array_equal(one.extra["center"], other.extra["center"])
    for name in ("dino", "ibot", "gram", "koleo", "patch_entropy"):
        assert one.metrics[name] != other.metrics[name]


@pytest.mark.parametrize("centering", ["centre", "sinkhorn"])
def test_the_loss_is_the_weighted_sum(centering: str):
    start = variables()
    value, aux = loss_of(centering)(start.params, start.extra, keys(4), jnp.int32(0))
    m = aux.metrics
    assert value == pytest.approx(float(m["dino"] + m["ibot"] + 0.1 * m["koleo"] + m["gram"]), rel=1e-5)
    assert set(aux.extra) == ({"center", "patch_center"} if centering == "centre" else set())


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ({}, ()),
        ({"gram_start": 3}, (3,)),
        ({"gram_start": 3, "gram_every": 2}, (3, 5, 7)),
        ({"gram_every": 4}, (4, 8)),
        ({"gram_start": 1, "gram_every": 3}, (1, 4, 7)),
        ({"gram_start": 3, "gram_from": 1}, (1,)),
        ({"gram_start": 3, "gram_from": 0, "gram_every": 2, "gram_updates": 2}, (5, 7)),
        ({"gram_start": 3, "gram_from": 2, "gram_every": 2, "gram_updates": 1}, (2, 5)),
    ],
)
def test_the_anchor_is_the_teacher_of_some_steps(options: dict[str, int], moves: tuple[int, ...]):
    """`moves` are the steps that find it new."""
    course, leaf = made(**options), lambda value: {"encoder": {"x": jnp.float32(value)}}
    extra = {"teacher": leaf(0.0), "gram": leaf(-1.0)["encoder"]}
    for step in range(8):
        before = float(extra["gram"]["x"])
        extra = course.after_update(leaf(step + 1.0), extra, jnp.int32(step))
        moved = float(extra["gram"]["x"]) != before
        assert moved == (step + 1 in moves), step
        if moved:
            assert extra["gram"]["x"] == extra["teacher"]["encoder"]["x"]


def test_the_anchor_holds_from_its_step_on():
    start, batch = variables(), batch_of(2)
    loss = jax.jit(functools.partial(made(gram_start=2).loss, start.params, start.extra, batch, keys(2)))
    values = [float(loss(jnp.int32(step))[1].metrics["gram"]) for step in (0, 1, 2, 3)]
    assert values[:2] == [0, 0] and values[2] == values[3] > 1e-3


def test_teacher_and_anchor_start_as_the_student_wherever_it_comes_from():
    start = variables()
    extra = made().started(start.params, start.extra)
    jax.tree.map(np.testing.assert_array_equal, extra["teacher"], start.params)
    jax.tree.map(np.testing.assert_array_equal, extra["gram"], start.params["encoder"])


@pytest.mark.parametrize(
    ("options", "why"),
    [({}, "Sinkhorn-Knopp shares"), ({"centering": "centre"}, "KoLeo looks for"), ({"koleo_weight": 0.0}, "Sinkhorn")],
)
def test_accumulation_that_is_not_exact_is_refused(options: dict[str, Any], why: str):
    with pytest.raises(ConfigError, match=f"refuses accumulation: {why}"):
        train_step.gradients_of(made(**options), lambda batch, keys: batch, 2)
    assert made(centering="centre", koleo_weight=0.0).accumulate == "mean"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_temperature": 0.0}, "config.objective.patch_temperature = 0.0 must be above 0"),
        ({"patch_prototypes": 1}, "config.objective.patch_prototypes = 1 must be at least 2"),
        ({"mask_ratio": (0.5, 0.1)}, r"config.objective.mask_ratio = (0.5, 0.1) must be two shares"),
        ({"koleo_weight": -1.0}, "config.objective.koleo_weight = -1.0 must be at least 0"),
        ({"ibot_weight": 0.0}, "config.objective.ibot_weight = 0.0 must be above 0 (objective.name = 'dino'"),
        ({"gram_every": 0}, "gram_every = 0 and gram_updates = None are from 1 up"),
        ({"gram_every": 1, "gram_updates": 0}, "gram_updates = 0 are from 1 up"),
        ({"gram_start": 2, "gram_from": 3}, "gram_from = 3 is a step from 0 to gram_start = 2"),
        ({"shared_head": True, "patch_prototypes": 12}, "config.objective.shared_head = True is one head"),
        ({"shared_head": True, "model": {"pool": "cls_gap"}}, "let model.pool = 'cls'"),
        ({"model": {"mask_token": False}}, "needs name = 'vit' with mask_token = True"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as error:
        made(**options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"global": (3, 16)}, "config.objective.mask_share = 0.5 of 3 global views"),
        ({"local": (4, 8)}, "config.data.views has 'local'"),
        ({"global": (2, 16), "local": (2, 10)}, "Images of 10 x 10 do not divide into patches of 4 pixels"),
    ],
)
def test_views_that_cannot_be_learned_from_are_refused_before_anything_compiles(
    views: dict[str, tuple[int, int]], words: str
):
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(lambda: made().init(jax.random.key(0), batch_of(1, **views)))
