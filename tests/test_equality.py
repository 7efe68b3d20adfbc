"""Every objective of the folder: one device equals eight, it learns, and its accumulation is exact or refused.

Equal are loss, every gradient, and the state after three steps, however the parameters are split; what an objective
keeps beside them (a teacher, a centre) included.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from tests import tiers
from tests.objectives import specs
from vitfm import optim, train_state, train_step, tree
from vitfm import recipe as recipes
from vitfm.config import ConfigError
from vitfm.data import loader as loading
from vitfm.data import pipeline
from vitfm.objectives import base
from vitfm.parallel import mesh as meshes
from vitfm.parallel import sharding

BATCH, STEPS = 32, 3
LEARNING = 6  # Steps on one batch.
LABELLED = ("supervised", "deit")  # Classes hold the features apart; all others watch for a collapse.


@dataclasses.dataclass(frozen=True)
class Setup:
    """A small model on the emoji: everything that does not know of devices."""

    objective: base.Objective
    data: pipeline.Data
    batches: list[dict[str, Any]]
    optimizer: Any
    learning_rate: Any
    shapes: train_state.TrainState
    create: Any


@functools.cache
def setup(name: str) -> Setup:
    spec = specs.CASES[name]
    teacher = spec.teacher and {"run": "", **spec.teacher}
    parts = {"objective": spec.objective, "data": {**specs.DATA, **spec.data}, "teacher": teacher}
    recipe = recipes.parse({**parts, "total": STEPS, "batch_size": BATCH})
    data = recipes.make_data(recipe)
    schedule = lambda spec, where: optim.schedules.value(spec, total=STEPS, to_steps=lambda d, w: STEPS, where=where)
    objective = recipes.make_objective(recipe, data, schedule)
    stream = data.train_loader(batch_size=BATCH, seed=0).batches()
    batches = [{k: v for k, v in next(stream).items() if k != loading.REPLACED} for _ in range(STEPS)]
    stream.close()
    one = jax.tree.map(lambda x: x[:1], batches[0])
    one = jax.jit(data.preprocess_train)(one, jax.random.split(jax.random.key(0), 1))
    variables = jax.eval_shape(lambda key: objective.init(key, one), jax.random.key(0))
    # Adam divides by the gradient's size, noise included; so large an epsilon leaves what is noise small.
    spec = {
        "name": "adamw",
        "learning_rate": 3e-3,
        "epsilon": 1e-2,
        "weight_decay": 0.1,
        "schedule": {"name": "constant"},
    }
    optimizer, rate = optim.make(spec, variables.params, total=STEPS, to_steps=lambda duration, where: int(duration))
    of = functools.partial(train_state.create, optimizer=optimizer, ema=True)
    create = lambda key: of(objective.init(key, one))
    return Setup(objective, data, batches, optimizer, rate, jax.eval_shape(of, variables), create)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a mesh made of it."""

    losses: list[float]
    first_gradients: Any
    last: train_state.TrainState


@functools.cache
def start(name: str) -> train_state.TrainState:
    """The state of step 0, made by one device."""
    return jax.device_get(jax.jit(setup(name).create)(jax.random.key(0)))


def mesh_of(name: str, data: int, fsdp: int) -> tuple[Mesh, train_state.TrainState]:
    """A mesh over the first devices, and where the state lives on it."""
    devices = jax.devices()[: data * fsdp]
    mesh = jax.make_mesh((data, fsdp), meshes.AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
    return mesh, sharding.shardings(setup(name).shapes, mesh)


@functools.cache
def step_of(name: str, data: int, fsdp: int, accumulate: int) -> tuple[Any, Any]:
    """(state, batch) -> (state, metrics) on a mesh, and what puts a batch there."""
    s, (mesh, shardings) = setup(name), mesh_of(name, data, fsdp)
    gradients = train_step.gradients_of(s.objective, s.data.preprocess_train, accumulate, s.data.mix)
    step = train_step.make(gradients, s.objective, s.optimizer, s.learning_rate, seed=0, ema_decay=0.5)
    place = functools.partial(meshes.place_local, mesh)
    return jax.jit(step, out_shardings=(shardings, meshes.replicated(mesh))), place


@functools.cache
def outcome(name: str, data: int, fsdp: int, accumulate: int) -> Outcome:
    step, place = step_of(name, data, fsdp, accumulate)
    state, losses, first_gradients = jax.device_put(start(name), mesh_of(name, data, fsdp)[1]), [], None
    for batch in setup(name).batches:
        state, metrics = step(state, place(batch))
        losses.append(float(metrics["loss"]))
        if first_gradients is None:  # Adam's first moment after one step is a tenth of the gradient.
            first_gradients = jax.device_get(optax.tree_utils.tree_get(state.opt_state, "mu"))
    return Outcome(losses, first_gradients, state)


def is_idle(name: str, leaf: str) -> bool:
    return any(re.search(pattern, leaf) for pattern in specs.CASES[name].idle)


def worst(name: str, ours: Any, theirs: Any, rounding: Any = None) -> tuple[float, str]:
    """The largest relative error of a leaf beyond its rounding, and which; what is idle is next to nothing in both."""
    errors = []
    rounding = jax.tree.map(lambda leaf: 0.0, theirs) if rounding is None else rounding
    leaves = (tree.named_leaves(jax.device_get(ours)), jax.tree.leaves(theirs), jax.tree.leaves(rounding))
    for (leaf, a), b, rounded in zip(*leaves, strict=True):
        if is_idle(name, leaf):
            assert max(np.linalg.norm(a), np.linalg.norm(b)) < 1e-6, leaf
        else:
            errors.append((float((np.linalg.norm(a - b) - rounded) / max(np.linalg.norm(b), 1e-30)), leaf))
    return max(errors)


def moved(name: str, result: Outcome) -> Any:
    return jax.tree.map(lambda new, old: np.asarray(new) - old, result.last.params, start(name).params)


def last_bits(name: str) -> Any:
    """Of a scalar, 2.3, that moves by 5e-4, the last bit, 2.4e-7, tells; in an array roundings even out."""
    bit = lambda leaf: float(np.spacing(np.abs(leaf))) if np.ndim(leaf) == 0 else 0.0
    return jax.tree.map(bit, start(name).params)


def accumulated(name: str) -> int:
    """Micro-batches for whoever does not refuse them."""
    return 1 if setup(name).objective.accumulate is None else 2


@pytest.mark.parametrize("name", specs.NAMES)
def test_no_objective_is_forgotten(name: str):
    file = f"tests/objectives/specs/{name}.py"
    assert pathlib.Path(specs.__file__).with_name(f"{name}.py").exists(), f"vitfm/objectives/{name}.py needs {file}"
    assert name == "backbone" or name in specs.BY_NAME[name], f"{file}: CASES lacks {name!r}"
    assert all(spec.objective["name"] == name for spec in specs.BY_NAME[name].values())


def test_every_spec_has_its_objective_and_its_name():
    files = pathlib.Path(specs.__file__).parent.glob("[!_]*.py")
    assert {file.stem for file in files} <= set(specs.NAMES)
    assert len(specs.CASES) == sum(len(cases) for cases in specs.BY_NAME.values())


MESHES = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (2, 4, 2)]
CASES = [pytest.param("clip", *mesh, marks=pytest.mark.slow) for mesh in MESHES[:2]]
CASES += [("clip", *MESHES[2])]
CASES += [pytest.param(*case.values, 2, 4, None, marks=case.marks) for case in specs.EACH]


@pytest.mark.parametrize(("name", "data", "fsdp", "accumulate"), CASES)
def test_eight_devices_give_what_one_gives(name: str, data: int, fsdp: int, accumulate: int | None):
    accumulate = accumulate or accumulated(name)
    one, eight = outcome(name, 1, 1, 1), outcome(name, data, fsdp, accumulate)
    np.testing.assert_allclose(eight.losses, one.losses, rtol=1e-5)
    assert worst(name, eight.first_gradients, one.first_gradients) < (1e-5,)
    assert worst(name, moved(name, eight), moved(name, one), last_bits(name)) < (1e-4,)
    assert max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(moved(name, one))) > 0.01  # The steps moved something.
    assert worst(name, eight.last.ema, jax.device_get(one.last.ema)) < (1e-5,)
    assert int(eight.last.step) == STEPS
    frozen = {base.FROZEN} if specs.CASES[name].teacher else set()
    assert set(one.last.extra) == {*specs.CASES[name].keeps, *frozen}
    if one.last.extra:
        assert worst(name, eight.last.extra, jax.device_get(one.last.extra)) < (1e-5,)


@pytest.mark.parametrize("name", specs.EACH)
def test_every_objective_learns(name: str):
    """The loss of one batch falls, all else being as it was, and all that may move does."""
    (step, place), first = step_of(name, 1, 1, 1), jax.device_put(start(name), mesh_of(name, 1, 1)[1])
    state, batch, old, moved = first, place(setup(name).batches[0]), dict(tree.named_leaves(first.params)), set()
    for _ in range(LEARNING):
        state, _ = step(state.replace(extra=first.extra), batch)  # No teacher runs away from its student.
        moved |= {kept for kept, before in first.extra.items() if differ(state.extra[kept], before)}
    _, metrics = step(state.replace(step=first.step, extra=first.extra), batch)
    assert float(metrics["loss"]) < outcome(name, 1, 1, 1).losses[0]
    for leaf, new in tree.named_leaves(state.params):
        assert np.any(new != old[leaf]) or is_idle(name, leaf), leaf
    assert moved == first.extra.keys() - {base.FROZEN}


def differ(one: Any, other: Any) -> bool:
    return any(np.any(a != b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize("name", specs.EACH)
def test_what_an_objective_calls_healthy_is_measured(name: str):
    s = setup(name)
    gradients = train_step.gradients_of(s.objective, s.data.preprocess_train, 1, s.data.mix)
    keys = jax.eval_shape(lambda: train_step.example_keys(0, 0, BATCH))
    aux = jax.eval_shape(gradients, s.shapes.params, s.shapes.extra, s.batches[0], keys, np.int32(0))[1]
    assert s.objective.healthy.keys() <= aux.metrics.keys()
    assert s.objective.healthy or specs.CASES[name].objective["name"] in LABELLED


@pytest.mark.parametrize("name", specs.CASES)
def test_accumulation_is_exact_or_refused(name: str):
    """That it is exact is shown above; here, that there is no third."""
    objective = setup(name).objective
    if objective.accumulate is not None:
        assert objective.accumulate in ("mean", "cached")
        assert accumulated(name) == 2
        return
    assert objective.why_not
    with pytest.raises(ConfigError, match="refuses accumulation: " + re.escape(objective.why_not)):
        train_step.gradients_of(objective, setup(name).data.preprocess_train, 2)


def test_a_state_is_born_the_same_on_any_mesh():
    _, shardings = mesh_of("clip", 2, 4)
    born = jax.jit(setup("clip").create, out_shardings=shardings)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(born), start("clip"))
    jax.tree.map(lambda leaf, where: np.testing.assert_equal(leaf.sharding, where), born, shardings)


@pytest.mark.parametrize("mesh", tiers.slow_unless(lambda mesh: mesh in MESHES[2:], MESHES))
def test_parameters_and_moments_live_where_the_mesh_says(mesh: tuple[int, int, int]):
    state, fsdp = outcome("clip", *mesh).last, mesh[1]
    split = 0
    for name, leaf in tree.named_leaves(state):
        shards = leaf.addressable_shards
        assert len(shards) == 8
        large = leaf.size >= 4096
        assert shards[0].data.size == (leaf.size // fsdp if large else leaf.size), name
        split += large
    assert split >= 4 * 15  # Parameters, both moments and the average of two towers.


@pytest.mark.slow
def test_copies_stay_copies():
    state = outcome("clip", 8, 1, 1).last
    for name, leaf in tree.named_leaves(state.params):
        for shard in leaf.addressable_shards[1:]:
            np.testing.assert_array_equal(shard.data, leaf.addressable_shards[0].data, err_msg=name)


def test_a_batch_is_split_over_all_devices():
    mesh = jax.make_mesh((2, 4), meshes.AXES, axis_types=(AxisType.Auto,) * 2)
    image = meshes.place_local(mesh, setup("clip").batches[0])["image"]
    assert {shard.data.shape[0] for shard in image.addressable_shards} == {BATCH // 8}
