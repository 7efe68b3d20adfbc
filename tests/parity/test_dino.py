"""DINO's loss, head and whole objective equal lightly's and timm's: values, gradients and the next centre."""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.reference import lightly, randomise, relative_error, timm, torch
from tests.parity.weights import (
    FORWARD,
    GRADIENT,
    Row,
    converted,
    patch_positions,
    same,
    timm_rows,
    transposed,
    values,
    worst,
)
from vitfm.losses import distillation
from vitfm.models.prototypes import Prototypes
from vitfm.objectives import dino

HEAD: tuple[Row, ...] = (
    ("hidden_0/kernel", "layers.0.weight", transposed),
    ("hidden_0/bias", "layers.0.bias", same),
    ("hidden_1/kernel", "layers.2.weight", transposed),
    ("hidden_1/bias", "layers.2.bias", same),
    ("bottleneck/kernel", "layers.4.weight", transposed),
    ("bottleneck/bias", "layers.4.bias", same),
    ("prototypes/kernel", "last_layer.weight_v", transposed),
)


def below(ours: str, theirs: str, rows: tuple[Row, ...] | list[Row]) -> list[Row]:
    return [(f"{ours}/{one}", f"{theirs}.{other}", convert) for one, other, convert in rows]


def learned(module: Any) -> dict[str, np.ndarray]:
    """All values but the prototypes' gain, which is 1."""
    return {name: value for name, value in values(module).items() if not name.endswith("weight_g")}


def learned_gradients(module: Any) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy() for name, p in module.named_parameters() if p.requires_grad}


def randomised(module: Any, seed: int) -> Any:
    """Every tensor drawn again but the prototypes' gain; it gets no gradient."""
    randomise(module, seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("weight_g"):
                assert not parameter.requires_grad
                parameter.fill_(1)
    return module


# The loss.


@pytest.mark.parametrize(
    ("batch", "views", "count", "temperature", "scale"),
    [(3, (2, 2), 11, 0.04, 0.3), (4, (2, 8), 64, 0.07, 1.0), (2, (1, 4), 5, 0.1, 0.5), (5, (3, 5), 33, 0.04, 0.1)],
)
def test_loss_with_centring_equals_lightly(
    batch: int, views: tuple[int, int], count: int, temperature: float, scale: float
):
    rng = np.random.default_rng(batch)
    drawn = lambda *shape: (scale * rng.normal(size=shape)).astype(np.float32)
    teacher, student, center = drawn(batch, views[0], count), drawn(batch, views[1], count), drawn(count)
    reference = torch.tensor(student, requires_grad=True)
    theirs = lightly.loss.DINOLoss(count, teacher_temp=temperature, student_temp=0.1, center_momentum=0.9)
    theirs.center.copy_(torch.tensor(center))
    value = theirs(list(torch.tensor(teacher).unbind(1)), list(reference.unbind(1)))
    value.backward()

    def loss(student: jax.Array) -> jax.Array:
        return distillation.cross_view(distillation.centred(teacher, center, temperature), student / 0.1)

    ours, gradient = jax.value_and_grad(loss)(student)
    assert value > 0.1
    assert relative_error(ours, value) < FORWARD
    assert relative_error(gradient, reference.grad) < GRADIENT
    assert relative_error(distillation.next_center(center, teacher, 0.9), theirs.center[0, 0]) < FORWARD


# The head.


@pytest.mark.parametrize("sizes", [(24, 40, 8, 50), (48, 32, 16, 7), (17, 64, 5, 130)])
def test_head_equals_lightly(sizes: tuple[int, int, int, int]):
    width, hidden, bottleneck, count = sizes
    theirs = randomised(lightly.models.modules.DINOProjectionHead(width, hidden, bottleneck, count), seed=count)
    rng = np.random.default_rng(count)
    x, weight = (rng.normal(size=(6, size)).astype(np.float32) for size in (width, count))
    their_x = torch.tensor(x, requires_grad=True)
    out = theirs(their_x)
    assert out.std() > 0.1
    (out * torch.tensor(weight)).sum().backward()
    ours = Prototypes(count, hidden, bottleneck)
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), x))["params"]

    def scalar(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = ours.apply({"params": params}, x)
        return (logits * weight).sum(), logits

    params = converted(list(HEAD), learned(theirs), like)
    (_, logits), grads = jax.value_and_grad(scalar, (0, 1), has_aux=True)(params, x)
    assert relative_error(logits, out) < FORWARD
    assert worst(grads[0], converted(list(HEAD), learned_gradients(theirs), like)) < (GRADIENT,)
    assert relative_error(grads[1], their_x.grad) < GRADIENT


# The whole objective: encoder, head and loss of student and teacher, over views of two sizes.

WIDTH, DEPTH, COUNT = 48, 2, 40
ROWS = [
    *below("encoder", "0", [row for row in timm_rows(DEPTH) if row[0] != "position"]),
    ("encoder/position", "0.pos_embed", lambda w: patch_positions(w[0])),
    ("encoder/class_token", "0.cls_token", same),
    *below("head", "1", HEAD),
]


def network(seed: int) -> Any:
    encoder = timm.models.vision_transformer.VisionTransformer(
        32, 8, embed_dim=WIDTH, depth=DEPTH, num_heads=3, num_classes=0, global_pool="token", dynamic_img_size=True
    )
    return randomised(
        torch.nn.Sequential(encoder, lightly.models.modules.DINOProjectionHead(WIDTH, 64, 8, COUNT)), seed
    )


def as_ours(module: Any, like: Any) -> Any:
    """Our class token holds the sum of theirs and its position."""
    named = learned(module)
    named["0.cls_token"] += named["0.pos_embed"][:, :1]
    return converted(ROWS, named, like)


def test_objective_equals_timm_under_lightly():
    rng = np.random.default_rng(0)
    views = {
        "global": rng.normal(size=(3, 2, 32, 32, 3)).astype(np.float32),
        "local": rng.normal(size=(3, 3, 16, 16, 3)).astype(np.float32),
    }
    student, teacher, center = network(1), network(2), 0.2 * rng.normal(size=COUNT).astype(np.float32)
    criterion = lightly.loss.DINOLoss(COUNT, teacher_temp=0.05, student_temp=0.1, center_momentum=0.9)
    criterion.center.copy_(torch.tensor(center))
    images = [torch.tensor(part[:, i]).permute(0, 3, 1, 2) for part in views.values() for i in range(part.shape[1])]
    with torch.no_grad():
        seen = [teacher(image) for image in images[:2]]
    found = [student(image) for image in images]
    assert min(torch.stack(seen).std(), torch.stack(found).std()) > 0.1
    assert torch.stack(found).std(1).mean() > 0.05  # Nor is it the same for every image.
    value = criterion(seen, found)
    value.backward()

    ours = dino.make(
        model={"patch_size": 8, "hidden_dim": WIDTH, "depth": DEPTH, "num_heads": 3, "pool": "cls"},
        prototypes=COUNT,
        hidden_dim=64,
        bottleneck_dim=8,
        teacher_temperature=0.05,
        momentum=0.9,
        data=types.SimpleNamespace(image_size=32),
        schedule=lambda spec, where: lambda step: spec,
    )
    batch = {"views": views}
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), batch)).params
    params, extra = as_ours(student, like), {"teacher": as_ours(teacher, like), "center": jnp.asarray(center)}
    loss = lambda params: ours.loss(params, extra, batch, jax.random.split(jax.random.key(0), 3), jnp.int32(0))
    (ours_value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert relative_error(ours_value, value) < FORWARD
    assert relative_error(aux.extra["center"], criterion.center[0, 0]) < FORWARD
    assert worst(grads, converted(ROWS, learned_gradients(student), like)) < (GRADIENT,)

    with torch.no_grad():  # The authors' average: the teacher keeps nine tenths.
        for kept, new in zip(teacher.parameters(), student.parameters(), strict=True):
            kept.mul_(0.9).add_(0.1 * new)
    after = ours.after_update(params, extra, jnp.int32(0))["teacher"]
    assert worst(after, as_ours(teacher, like)) < (FORWARD,)
