"""One device equals eight, however the parameters are split: loss, every gradient, and the state after three steps.

For every objective, what it keeps beside the parameters (a teacher, a centre) included.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from vitfm import optim, train_state, train_step, tree
from vitfm.data import loader as loading
from vitfm.data import pipeline
from vitfm.objectives import base
from vitfm.parallel import mesh as meshes
from vitfm.parallel import sharding

BATCH, STEPS = 32, 3
TOWER = {"hidden_dim": 64, "depth": 2, "num_heads": 2}


MODEL = {"name": "vit", "patch_size": 8, "pool": "cls", **TOWER}
DATA = {"source": "tfds:emoji:train", "image_size": 32, "alpha": True}
COLOURS = {"background": "random", "brightness": 0.3}
CLIP = (
    {"name": "clip", "image": MODEL, "text": {"name": "text", **TOWER}, "embed_dim": 64},
    {"captions": {}, "tokenizer": {"length": 12}, "columns": {"concept": "codepoint"}, "augment": COLOURS},
)
SUPERVISED = (
    {"name": "supervised", "model": {**MODEL, "drop_path_rate": 0.3}, "head_init": "fan_in", "label_smoothing": 0.1},
    {
        "label": {"feature": "subgroup"},
        "mix": {"mixup": 0.4, "cutmix": 1.0},
        "augment": {**COLOURS, "randaugment": {"num_layers": 1}, "erase": {"probability": 0.5}},
    },
)
SWIN = (
    {
        "name": "supervised",
        "model": {
            "name": "swin",
            "embed_dim": 32,
            "depths": (1, 2),
            "num_heads": (2, 4),
            "window_size": 3,
            "drop_path_rate": 0.3,
        },
        "head_init": "fan_in",
    },
    {"label": {"feature": "subgroup"}, "augment": COLOURS},
)
MAE = (
    {
        "name": "mae",
        "model": {**TOWER, "patch_size": 8, "scan": True},
        "decoder": {"hidden_dim": 32, "depth": 1, "num_heads": 2},
    },
    {"augment": COLOURS},
)
DINO = (
    {"name": "dino", "model": MODEL, "prototypes": 64, "hidden_dim": 64, "bottleneck_dim": 32, "momentum": 0.9},
    {
        "views": {"global": {"count": 2}, "local": {"count": 2, "size": 16}},
        "augment": {**COLOURS, "blur": {"sigma": (0.1, 1.0)}, "solarize": {}},
    },
)
RESNET = (
    {
        "name": "supervised",
        "model": {"name": "resnet", "stem_dim": 16, "depths": (1, 1), "hidden_dims": (64, 128), "drop_path_rate": 0.3},
        "head_init": "fan_in",
    },
    {"label": {"feature": "subgroup"}, "augment": COLOURS},
)
OBJECTIVES = {"clip": CLIP, "supervised": SUPERVISED, "mae": MAE, "dino": DINO, "swin": SWIN, "resnet": RESNET}


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
    objective, data = OBJECTIVES[name]
    data = pipeline.make(**DATA, **data)
    schedule = lambda spec, where: optim.schedules.value(spec, total=STEPS, to_steps=lambda d, w: STEPS, where=where)
    objective = base.make(objective, data=data.facts, dtype=np.float32, schedule=schedule)
    stream = data.train_loader(batch_size=BATCH, seed=0).batches()
    batches = [{k: v for k, v in next(stream).items() if k != loading.REPLACED} for _ in range(STEPS)]
    stream.close()
    one = jax.tree.map(lambda x: x[:1], batches[0])
    one = jax.jit(data.preprocess_train)(one, jax.random.split(jax.random.key(0), 1))
    params = jax.eval_shape(lambda key: objective.init(key, one), jax.random.key(0)).params
    # Adam divides by the gradient's size, noise included; so large an epsilon leaves what is noise small.
    spec = {
        "name": "adamw",
        "learning_rate": 1e-2,
        "epsilon": 1e-2,
        "weight_decay": 0.1,
        "schedule": {"name": "constant"},
    }
    optimizer, rate = optim.make(spec, params, total=STEPS, to_steps=lambda duration, where: int(duration))
    create = functools.partial(train_state.create, batch=one, objective=objective, optimizer=optimizer, ema=True)
    return Setup(objective, data, batches, optimizer, rate, jax.eval_shape(create, jax.random.key(0)), create)


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
def outcome(name: str, data: int, fsdp: int, accumulate: int) -> Outcome:
    s, (mesh, shardings) = setup(name), mesh_of(name, data, fsdp)
    gradients = train_step.gradients_of(s.objective, s.data.preprocess_train, accumulate, s.data.mix)
    step = train_step.make(gradients, s.objective, s.optimizer, s.learning_rate, seed=0, ema_decay=0.5)
    compiled = jax.jit(step, out_shardings=(shardings, meshes.replicated(mesh)))
    state, losses, first_gradients = jax.device_put(start(name), shardings), [], None
    for batch in s.batches:
        state, metrics = compiled(state, meshes.place_local(mesh, batch))
        losses.append(float(metrics["loss"]))
        if first_gradients is None:  # Adam's first moment after one step is a tenth of the gradient.
            first_gradients = jax.device_get(optax.tree_utils.tree_get(state.opt_state, "mu"))
    return Outcome(losses, first_gradients, state)


def worst(ours: Any, theirs: Any) -> tuple[float, str]:
    pairs = zip(tree.named_leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max((float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)), name) for (name, a), b in pairs)


def moved(name: str, result: Outcome) -> Any:
    return jax.tree.map(lambda new, old: np.asarray(new) - old, result.last.params, start(name).params)


MESHES = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (2, 4, 2)]
CASES = [("clip", *mesh) for mesh in MESHES] + [(name, 2, 4, 2) for name in ("supervised", "mae", "dino", "swin")]
CASES += [("resnet", 8, 1, 1), ("resnet", 2, 4, 1)]  # Its batch statistics are of the global batch.


@pytest.mark.parametrize(("name", "data", "fsdp", "accumulate"), CASES)
def test_eight_devices_give_what_one_gives(name: str, data: int, fsdp: int, accumulate: int):
    one, eight = outcome(name, 1, 1, 1), outcome(name, data, fsdp, accumulate)
    np.testing.assert_allclose(eight.losses, one.losses, rtol=1e-5)
    assert worst(eight.first_gradients, one.first_gradients) < (1e-5,)
    assert worst(moved(name, eight), moved(name, one)) < (1e-4,)
    assert max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(moved(name, one))) > 0.1  # The steps moved something.
    assert worst(jax.device_get(eight.last.ema), jax.device_get(one.last.ema)) < (1e-5,)
    assert int(eight.last.step) == STEPS
    if name in ("dino", "resnet"):
        assert one.last.extra.keys() == ({"teacher", "center"} if name == "dino" else {"batch_stats"})
        assert worst(jax.device_get(eight.last.extra), jax.device_get(one.last.extra)) < (1e-5,)


def test_a_state_is_born_the_same_on_any_mesh():
    _, shardings = mesh_of("clip", 2, 4)
    born = jax.jit(setup("clip").create, out_shardings=shardings)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(born), start("clip"))
    jax.tree.map(lambda leaf, where: np.testing.assert_equal(leaf.sharding, where), born, shardings)


@pytest.mark.parametrize(("data", "fsdp", "accumulate"), MESHES)
def test_parameters_and_moments_live_where_the_mesh_says(data: int, fsdp: int, accumulate: int):
    state = outcome("clip", data, fsdp, accumulate).last
    split = 0
    for name, leaf in tree.named_leaves(state):
        shards = leaf.addressable_shards
        assert len(shards) == 8
        large = leaf.size >= 4096
        assert shards[0].data.size == (leaf.size // fsdp if large else leaf.size), name
        split += large
    assert split >= 4 * 15  # Parameters, both moments and the average of two towers.


def test_copies_stay_copies():
    state = outcome("clip", 8, 1, 1).last
    for name, leaf in tree.named_leaves(state.params):
        for shard in leaf.addressable_shards[1:]:
            np.testing.assert_array_equal(shard.data, leaf.addressable_shards[0].data, err_msg=name)


def test_a_batch_is_split_over_all_devices():
    mesh = jax.make_mesh((2, 4), meshes.AXES, axis_types=(AxisType.Auto,) * 2)
    image = meshes.place_local(mesh, setup("clip").batches[0])["image"]
    assert {shard.data.shape[0] for shard in image.addressable_shards} == {BATCH // 8}
