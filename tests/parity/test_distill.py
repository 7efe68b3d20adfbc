"""Distillation equals torch's: timm's ViT under linear maps, taught by transformers' DeiT of another size and grid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import networks
from tests.parity.families import deit as deits
from tests.parity.family import Pair
from tests.parity.reference import relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT, converted, same, transposed, worst
from vitfm.data import augment
from vitfm.data.facts import Facts
from vitfm.objectives import base, distill

BATCH, SIDE, TEMPERATURE = 5, 35, 2.0  # The teacher's side: 5 x 5 patches, the student has 4 x 4.
FACTORS = {"pooled": 1.0, "patches": 0.6, "logits": 0.3}
WIDTHS = {"pooled": 32, "patches": 32, "logits": 5}
ROWS = [
    *networks.below("encoder", "0", networks.VIT),
    *((f"head/{name}/out/kernel", f"{name}.weight", transposed) for name in FACTORS),
    *((f"head/{name}/out/bias", f"{name}.bias", same) for name in FACTORS),
]


def told(teacher: Any, pixels: Any) -> dict[str, Any]:
    """What the teacher says of the student's pictures, its patches on the student's grid."""
    resize = torch.nn.functional.interpolate
    with torch.no_grad():
        large = resize(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        tokens = teacher.deit(large, interpolate_pos_encoding=True).last_hidden_state
        logits = teacher(large, interpolate_pos_encoding=True).logits
        grid = tokens[:, 2:].transpose(1, 2).reshape(BATCH, -1, 5, 5)
        patches = resize(grid, (4, 4), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    return {"pooled": tokens[:, 0], "patches": patches, "logits": logits}


def their_loss(student: Any, said: dict[str, Any], pixels: Any, distance: str, names: tuple[str, ...]) -> Any:
    tokens = student["0"].forward_features(pixels)
    found = {name: student[name](tokens[:, 1:] if name == "patches" else tokens[:, 0]) for name in names}
    functional, value = torch.nn.functional, 0.0
    for name in names:
        if name == "logits":
            logs = [functional.log_softmax(x / TEMPERATURE, dim=1) for x in (found[name], said[name])]
            term = functional.kl_div(*logs, reduction="batchmean", log_target=True) * TEMPERATURE**2
        elif distance == "l2":
            term = functional.mse_loss(found[name], said[name])
        else:
            term = 1 - functional.cosine_similarity(found[name], said[name], dim=-1).mean()
        value = value + FACTORS[name] * term
    return value


@pytest.mark.parametrize(("distance", "names"), [("cosine", ("pooled", "patches", "logits")), ("l2", ("patches",))])
def test_objective_equals_torch(distance: str, names: tuple[str, ...]):
    trained = Pair(next(case for case in deits.CASES if case.name == "classifier"), seed=4)
    maps = {name: torch.nn.Linear(networks.WIDTH, WIDTHS[name]) for name in names}
    student = networks.randomised(torch.nn.ModuleDict({"0": networks.vit(), **maps}), 5)
    image = networks.pictures(6, BATCH)[:, 0]
    pixels = networks.as_torch(image)
    said = told(trained.theirs, pixels)
    assert min(said[name].std() for name in names) > 0.1
    value = their_loss(student, said, pixels, distance, names)
    value.backward()

    state = trained.ours()
    frozen = trained.objective.evaluated(state["params"], state["extra"])
    teacher = base.Teacher(lambda key: frozen, trained.objective.predict, augment.adapting({}, {}, SIDE), trained.facts)
    factors = {name: FACTORS[name] if name in names else 0.0 for name in FACTORS}
    options = {**factors, "distance": distance, "temperature": TEMPERATURE, "teacher": teacher}
    ours = distill.make(model=networks.MODEL, data=Facts(networks.SIZE, 3, 0, 0), **options)
    batch, keys = {"image": image}, jax.random.split(jax.random.key(0), BATCH)
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), batch)).params
    rows = [row for row in ROWS if row[0].split("/")[0] == "encoder" or row[0].split("/")[1] in names]
    params = converted(rows, networks.summed(networks.learned(student), "0"), like)

    def loss(params: Any, frozen: Any) -> Any:
        return ours.loss(params, {base.FROZEN: frozen}, batch, keys, jnp.int32(0))

    graded = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (ours_value, _), (grads, none) = graded(params, frozen)
    assert relative_error(ours_value, value) < FORWARD
    assert worst(grads, converted(rows, networks.learned_gradients(student), like)) < (GRADIENT,)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(none))
