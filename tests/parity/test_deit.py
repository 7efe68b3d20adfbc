"""DeiT's loss equals torch's around transformers' `DeiTForImageClassificationWithTeacher`, taught by its ResNet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import networks
from tests.parity.families import deit as deits
from tests.parity.families import resnet as resnets
from tests.parity.family import Pair
from tests.parity.reference import relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT, worst
from vitfm.data import augment
from vitfm.interop import weights
from vitfm.objectives import base, deit

BATCH, SIDE = 6, 33
HERE, THERE = ({"mean": (m, 0.5, 0.4), "std": (0.2, s, 0.3)} for m, s in ((0.3, 0.25), (0.6, 0.4)))


def pair(module: Any, name: str, seed: int) -> Pair:
    return Pair(next(case for case in module.CASES if name in case.name), seed)


def distillation_loss(own: Any, distilled: Any, teacher: Any, label: Any, kind: str, alpha: float, tau: float) -> Any:
    """The published `DistillationLoss`, but its soft term divided by B, as in the paper, not by B K."""
    functional = torch.nn.functional
    base_loss = functional.cross_entropy(own, label, label_smoothing=0.1)
    if kind == "hard":
        term = functional.cross_entropy(distilled, teacher.argmax(dim=1))
    else:
        logs = [functional.log_softmax(logits / tau, dim=1) for logits in (distilled, teacher)]
        term = functional.kl_div(*logs, reduction="batchmean", log_target=True) * tau**2
    return base_loss * (1 - alpha) + term * alpha


def seen_by_teacher(pixels: Any) -> Any:
    """The student's pictures in the teacher's normalisation and size."""
    column = lambda numbers: torch.tensor(numbers).view(1, 3, 1, 1)
    plain = pixels * column(HERE["std"]) + column(HERE["mean"])
    large = torch.nn.functional.interpolate(plain, (SIDE, SIDE), mode="bilinear", antialias=True)
    return (large - column(THERE["mean"])) / column(THERE["std"])


@pytest.mark.parametrize(("kind", "alpha", "tau", "mixed"), [("hard", 0.5, 1.0, True), ("soft", 0.3, 3.0, False)])
def test_objective_equals_transformers_under_the_published_loss(kind: str, alpha: float, tau: float, mixed: bool):
    student, trained = pair(deits, "with teacher", 1), pair(resnets, "classifier", 2)
    rng = np.random.default_rng(3)
    colour = 2 * rng.normal(size=(BATCH, 1, 1, 3))  # By which the teacher can tell one from another.
    image = (rng.normal(size=(BATCH, 14, 21, 3)) + colour).astype(np.float32)
    label = rng.dirichlet([0.5] * 5, BATCH).astype(np.float32) if mixed else rng.integers(0, 5, BATCH, dtype=np.int32)

    pixels = networks.as_torch(image)
    output = student.theirs(pixels, interpolate_pos_encoding=True)
    with torch.no_grad():
        said = trained.theirs(seen_by_teacher(pixels)).logits
    assert min(output.cls_logits.std(), output.distillation_logits.std(), said.std(0).mean()) > 0.1
    target = torch.tensor(label, dtype=torch.float32 if mixed else torch.long)
    value = distillation_loss(output.cls_logits, output.distillation_logits, said, target, kind, alpha, tau)
    value.backward()
    named = {name: p.grad.numpy() for name, p in student.theirs.named_parameters()}

    state = trained.ours()
    frozen = trained.objective.evaluated(state["params"], state["extra"])
    adapt = augment.adapting(HERE, THERE, SIDE)
    teacher = base.Teacher(lambda key: frozen, trained.objective.predict, adapt, trained.facts)
    options = {"distillation": kind, "balance": alpha, "temperature": tau}
    ours = deit.make(model=student.spec["model"], data=student.facts, teacher=teacher, **options)
    batch, keys = {"image": image, "label": label}, jax.random.split(jax.random.key(0), BATCH)

    def loss(params: Any, frozen: Any) -> Any:
        return ours.loss(params, {base.FROZEN: frozen}, batch, keys, jnp.int32(0))

    graded = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (ours_value, aux), (grads, none) = graded(student.ours()["params"], frozen)
    theirs = weights.to_ours(student.rows, named, {"params": student.like["params"]})["params"]
    assert relative_error(ours_value, value) < FORWARD
    assert worst(grads, theirs) < (GRADIENT,)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(none))  # The teacher is none of those who learn.
    agreement = (output.distillation_logits.argmax(1) == said.argmax(1)).float().mean()
    np.testing.assert_allclose(aux.metrics["agreement"], agreement.item(), rtol=1e-6)
