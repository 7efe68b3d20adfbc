"""DINO: who sees what, what moves whom, and that neither devices nor accumulation change it."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from vitfm import models, train_state, train_step, tree
from vitfm.config import ConfigError
from vitfm.losses import diagnostics, distillation
from vitfm.models.prototypes import Prototypes
from vitfm.objectives import base, dino
from vitfm.optim import schedules
from vitfm.parallel import mesh as meshes
from vitfm.parallel import sharding

BATCH, PROTOTYPES, TOTAL = 16, 24, 10
# Two blocks, as the first never drops its paths; scanned, so that one compiles.
MODEL = {"patch_size": 8, "hidden_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "pool": "cls", "scan": True}
HEAD = {"hidden_dim": 32, "bottleneck_dim": 16}
SCHEDULES = {
    "teacher_temperature": {"name": "linear", "start": 0.04, "end": 0.07, "length": 5},
    "momentum": {"name": "cosine", "start": 0.9, "end": 1.0},
}


def schedule(spec: Any, where: str) -> Any:
    to_steps = lambda duration, where: TOTAL if duration == "100%" else int(duration)
    return schedules.value(spec, total=TOTAL, to_steps=to_steps, where=where)


def made(model: Mapping[str, Any] = {}, **options: Any) -> base.Objective:
    options = {"prototypes": PROTOTYPES, **HEAD, **SCHEDULES, **options}
    return dino.make(model={**MODEL, **model}, data=types.SimpleNamespace(image_size=16), schedule=schedule, **options)


def batch_of(count: int = BATCH, **views: tuple[int, int]) -> dict[str, Any]:
    """Views by name, each of so many and of such a size."""
    rng = np.random.default_rng(0)
    views = views or {"global": (2, 16), "local": (3, 8)}
    draw = lambda number, size: rng.normal(size=(count, number, size, size, 3)).astype(np.float32)
    return {"views": {name: draw(*shape) for name, shape in views.items()}}


def keys(count: int = BATCH) -> jax.Array:
    return train_step.example_keys(0, jnp.int32(0), count)


@functools.cache
def variables(centering: str = "centre") -> base.Variables:
    """As after some training: teacher and centre are not what they start as."""
    init = jax.jit(functools.partial(made(centering=centering).init, batch=batch_of(1)))
    params, extra = init(jax.random.key(0)).params, init(jax.random.key(1)).extra
    if centering == "centre":
        extra = {**extra, "center": 0.1 * jax.random.normal(jax.random.key(2), (PROTOTYPES,))}
    return base.Variables(params, extra)


def logits_by_view(params: Any, batch: Mapping[str, Any], names: tuple[str, ...]) -> np.ndarray:
    """[B, V, K], one view after the other."""
    encoder = models.make({"name": "vit", "image_size": 16, **MODEL}, where="model", dtype=jnp.float32)
    head = Prototypes(PROTOTYPES, **HEAD)

    @jax.jit
    def logits(images: jax.Array) -> jax.Array:
        pooled = encoder.apply({"params": params["encoder"]}, images).pooled
        return head.apply({"params": params["head"]}, pooled)

    views = [batch["views"][name][:, view] for name in names for view in range(batch["views"][name].shape[1])]
    return np.stack([logits(view) for view in views], axis=1)


@pytest.mark.parametrize(
    ("centering", "views"),
    [
        ("centre", {"global": (2, 16), "local": (3, 8)}),
        ("centre", {"global": (2, 16)}),
        ("centre", {"global": (1, 16), "local": (1, 8)}),
        ("sinkhorn", {"global": (2, 16), "local": (1, 8)}),
    ],
)
def test_loss_is_the_cross_entropy_between_different_views(centering: str, views: dict[str, tuple[int, int]]):
    batch, start = batch_of(4, **views), variables(centering)
    loss = jax.jit(made(centering=centering).loss)
    value, aux = loss(start.params, start.extra, batch, keys(4), jnp.int32(5))
    teacher = logits_by_view(start.extra["teacher"], batch, ("global",))
    student = logits_by_view(start.params, batch, tuple(views))
    if centering == "centre":
        targets = distillation.centred(teacher, start.extra["center"], 0.07)
        expected = 0.9 * start.extra["center"] + 0.1 * teacher.mean((0, 1))
        np.testing.assert_allclose(aux.extra["center"], expected, atol=1e-6)
        assert aux.extra.keys() == {"center"}
    else:
        targets = distillation.sinkhorn(teacher, 0.07)
        assert aux.extra == {}
    targets, logs = np.asarray(targets), np.asarray(jax.nn.log_softmax(student / 0.1))
    pairs = [(i, j) for i in range(teacher.shape[1]) for j in range(student.shape[1]) if i != j]
    expected = np.mean([-(targets[:, i] * logs[:, j]).sum(-1) for i, j in pairs])
    assert value == pytest.approx(expected, rel=1e-4)
    divergence = np.mean([(targets[:, i] * (np.log(targets[:, i]) - logs[:, j])).sum(-1) for i, j in pairs])
    assert aux.metrics["kl"] == pytest.approx(divergence, rel=1e-3)
    assert aux.metrics["teacher_entropy"] == pytest.approx(float(diagnostics.entropy(targets)), rel=1e-4)
    assert divergence > 0.01


def test_teacher_and_centre_receive_no_gradient_and_every_parameter_of_the_student_does():
    loss = lambda params, extra: made().loss(params, extra, batch_of(4), keys(4), jnp.int32(0))[0]
    start = variables()
    student, extra = jax.jit(jax.grad(loss, (0, 1)))(start.params, start.extra)
    assert not any(leaf.any() for leaf in jax.tree.leaves(extra))
    assert not [name for name, leaf in tree.named_leaves(student) if not np.abs(leaf).max() > 1e-6]


def test_only_the_student_drops_paths():
    objective, start, batch = made({"drop_path_rate": 0.5}), variables(), batch_of(4)
    run = jax.jit(lambda key: objective.loss(start.params, start.extra, batch, key, jnp.int32(0)))
    (one, one_aux), (other, other_aux) = run(keys(8)[:4]), run(keys(8)[4:])
    assert abs(one - other) > 1e-3
    assert one_aux.metrics["teacher_entropy"] == other_aux.metrics["teacher_entropy"]
    np.testing.assert_array_equal(one_aux.extra["center"], other_aux.extra["center"])


def test_every_view_of_an_example_draws_for_itself():
    views = [jnp.zeros((2, 2)), jnp.zeros((2, 3))]
    drawn = np.concatenate([jax.random.key_data(part) for part in dino.keys_of(keys(2), views)], axis=1)
    assert drawn.shape[:2] == (2, 5)
    assert len(np.unique(drawn.reshape(10, -1), axis=0)) == 10


def test_schedules_reach_their_ends():
    start, batch, objective = variables(), batch_of(2), made()
    run = jax.jit(lambda step: objective.loss(start.params, start.extra, batch, keys(2), step)[1].metrics)
    metrics = [run(jnp.int32(step)) for step in (0, 5, TOTAL)]
    assert [float(m["teacher_temperature"]) for m in metrics] == pytest.approx([0.04, 0.07, 0.07])
    assert [float(m["momentum"]) for m in metrics] == pytest.approx([0.9, 0.95, 1.0])


@pytest.mark.parametrize(("step", "momentum"), [(0, 0.9), (5, 0.95), (TOTAL, 1.0)])
def test_the_teacher_is_the_moving_average_of_the_student(step: int, momentum: float):
    start = variables()
    after = made().after_update(start.params, start.extra, jnp.int32(step))
    expected = jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, start.extra["teacher"], start.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), after["teacher"], expected)
    np.testing.assert_array_equal(after["center"], start.extra["center"])


def test_the_teacher_starts_as_the_student_and_is_what_is_evaluated():
    objective = made()
    start = jax.jit(objective.init)(jax.random.key(0), batch_of(1))
    jax.tree.map(np.testing.assert_array_equal, start.extra["teacher"], start.params)
    np.testing.assert_array_equal(start.extra["center"], np.zeros(PROTOTYPES))
    trained = variables()
    evaluated = objective.evaluated(trained.params, trained.extra)
    jax.tree.map(np.testing.assert_array_equal, evaluated, trained.extra["teacher"])
    image = batch_of()["views"]["global"][:3, 0]
    shapes = {name: jax.eval_shape(f, evaluated, image).shape for name, f in objective.predict.items()}
    assert shapes == {
        "embed_image": (3, 16),
        "features": (3, 2, 2, 16),
        "patches": (3, 2, 2, 16),
        "attention": (3, 2, 1, 2, 2),
    }


# Devices and accumulation.


def step_of(objective: base.Objective, accumulate: int) -> tuple[Any, Any]:
    """A training step, and the state's maker."""
    optimizer = optax.sgd(0.1)
    gradients = train_step.gradients_of(objective, lambda batch, keys: batch, accumulate)
    create = lambda key: train_state.create(objective.init(key, batch_of(1)), optimizer, ema=False)
    return train_step.make(gradients, objective, optimizer, lambda step: 0.1, seed=0), create


def mesh_of(data: int, fsdp: int) -> Mesh:
    devices = jax.devices()[: data * fsdp]
    return jax.make_mesh((data, fsdp), meshes.AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


@functools.cache
def beginning() -> train_state.TrainState:
    """The state of step 0, made by one device."""
    return jax.device_get(jax.jit(step_of(made(), 1)[1])(jax.random.key(0)))


@functools.cache
def after_steps(data: int, fsdp: int, accumulate: int) -> tuple[Any, dict[str, float]]:
    """The state after three steps, and the last step's metrics."""
    step, create = step_of(made({"drop_path_rate": 0.2}), accumulate)
    mesh = mesh_of(data, fsdp)
    shardings = sharding.shardings(jax.eval_shape(create, jax.random.key(0)), mesh)
    state = jax.device_put(beginning(), shardings)
    compiled = jax.jit(step, out_shardings=(shardings, meshes.replicated(mesh)))
    batch = meshes.place_local(mesh, batch_of())
    for _ in range(3):
        state, metrics = compiled(state, batch)
    return jax.device_get(state), {name: float(value) for name, value in metrics.items()}


# Over a batch; accumulated, over its parts.
COUPLED = ("effective_rank", "uniformity", "prototype_use", "prototype_perplexity")


@pytest.mark.parametrize(("data", "fsdp", "accumulate"), [(8, 1, 1), (2, 4, 2)])
def test_eight_devices_and_accumulation_give_what_one_device_gives(data: int, fsdp: int, accumulate: int):
    state, metrics = after_steps(data, fsdp, accumulate)
    one, one_metrics = after_steps(1, 1, 1)
    for name in one_metrics.keys() - set(COUPLED if accumulate > 1 else ()):
        assert metrics[name] == pytest.approx(one_metrics[name], rel=1e-4), name
    for part in ("params", "extra"):
        leaves = zip(tree.named_leaves(getattr(state, part)), jax.tree.leaves(getattr(one, part)), strict=True)
        for (name, ours), theirs in leaves:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-5, err_msg=name)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), one.extra, beginning().extra)
    assert moved["center"] > 1e-3
    assert max(jax.tree.leaves(moved["teacher"])) > 1e-3


def test_sinkhorn_refuses_accumulation_and_says_why():
    objective = made(centering="sinkhorn")
    assert objective.accumulate is None
    with pytest.raises(ConfigError, match="refuses accumulation: Sinkhorn-Knopp shares the prototypes out among"):
        train_step.gradients_of(objective, lambda batch, keys: batch, 2)
    assert "center" not in variables("sinkhorn").extra


# Refusals.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student_temperature": 0.0}, "config.objective.student_temperature = 0.0 must be above 0"),
        ({"teacher_temperature": -0.1}, "config.objective.teacher_temperature = -0.1 must be above 0"),
        (
            {"teacher_temperature": {"name": "linear", "start": 0.0, "end": 0.1}},
            "config.objective.teacher_temperature = {'name': 'linear', 'start': 0.0, 'end': 0.1} must be above 0",
        ),
        ({"momentum": 1.5}, "config.objective.momentum = 1.5 must be from 0 to 1"),
        ({"momentum": {"name": "cosine", "begin": 0.9, "end": 1.0}}, "Unknown key config.objective.momentum.begin"),
        ({"center_momentum": 1.0}, "config.objective.center_momentum = 1.0 must be at least 0 and below 1"),
        ({"prototypes": 1}, "config.objective.prototypes = 1 must be at least 2"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as error:
        made(**options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"local": (4, 8)}, "config.data.views has 'local'"),
        ({"global": (2, 16), "medium": (2, 8)}, "config.data.views has 'global', 'medium'"),
        ({"global": (1, 16)}, "config.data.views makes one"),
        ({"global": (2, 16), "local": (2, 12)}, "Images of 12 x 12 do not divide into patches of 8 pixels"),
    ],
)
def test_views_that_cannot_be_learned_from_are_refused_before_anything_compiles(
    views: dict[str, tuple[int, int]], words: str
):
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(lambda: made().init(jax.random.key(0), batch_of(1, **views)))
