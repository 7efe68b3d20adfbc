"""Our AdamW with all of its rules follows torch's with one group a parameter: DINO's recipe and BEiT's in one."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import optax
import pytest

from tests.parity.reference import relative_error, torch
from vitfm import config, optim

DEPTH, STEPS, THAW = 3, 10, 4
SHAPES = {"stem/kernel": (6, 4), "class_token": (4,), "mlp/kernel": (4, 4), "mlp/bias": (4,), "norm/scale": (4,)}
FACTORS = {"stem/kernel": 0.6**4 * 0.2, "class_token": 0.6**4, "norm/scale": 1.0}  # 0.6 a layer, 0.2 on the stem.


def names() -> dict[str, tuple[str, int | None]]:
    """Torch's name of each parameter -> (ours, the slice of it that is meant)."""
    blocks = {
        f"block_{n}/{leaf}": (f"encoder/transformer/blocks/{leaf}", n)
        for n in range(DEPTH)
        for leaf in SHAPES
        if "mlp" in leaf
    }
    rest = {
        "stem/kernel": "encoder/stem/kernel",
        "class_token": "encoder/class_token",
        "norm/scale": "encoder/transformer/norm/scale",
    }
    return {**{theirs: (ours, None) for theirs, ours in rest.items()}, **blocks, "last/kernel": ("last/kernel", None)}


def shape(name: str) -> tuple[int, ...]:
    return (4, 5) if name == "last/kernel" else SHAPES[name.split("/", 1)[1] if name.startswith("block") else name]


def ours_of(theirs: dict[str, np.ndarray]) -> Any:
    """Torch's arrays as our tree, blocks stacked."""
    nested: dict[str, Any] = {}
    for name in dict.fromkeys(ours for ours, _ in names().values()):
        parts = [theirs[key] for key, (ours, _) in names().items() if ours == name]
        *parents, leaf = name.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = np.stack(parts) if "blocks" in name else parts[0]
    return nested


def factor_of(name: str) -> float:
    return 0.6 ** (DEPTH - int(name[6])) if name.startswith("block") else FACTORS.get(name, 1.0)


def gradients(step: int) -> dict[str, np.ndarray]:
    """Some longer than both clips, some shorter."""
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=shape(name)).astype(np.float32) * 10 ** rng.uniform(-2, 1) for name in names()}


def torch_steps(start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Groups as BEiT's, clipping, weight decay and the frozen last layer as in DINO's `train_one_epoch`."""
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    groups = [
        {"params": [p], "factor": factor_of(name), "decays": name.endswith("kernel")} for name, p in parameters.items()
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    for step in range(STEPS):
        for name, gradient in gradients(step).items():
            parameters[name].grad = torch.tensor(gradient) if name != "last/kernel" or step >= THAW else None
        torch.nn.utils.clip_grad_norm_([p for p in parameters.values() if p.grad is not None], 20.0)
        for p in parameters.values():
            if p.grad is not None and (coefficient := 3.0 / (p.grad.norm(2) + 1e-6)) < 1:
                p.grad.mul_(coefficient)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * step / STEPS)) * group["factor"]
            group["weight_decay"] = (0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * step / STEPS))) * group[
                "decays"
            ]
        optimizer.step()
    return {name: p.detach().numpy() for name, p in parameters.items()}


def test_adamw_with_every_rule_follows_torch():
    rng = np.random.default_rng(100)
    # Small beside the steps, so that what moved is not lost in rounding.
    start = {name: 0.1 * rng.normal(size=shape(name)).astype(np.float32) for name in names()}
    params = ours_of(start)
    optimizer, _ = optim.make(
        {
            "name": "adamw",
            "b2": 0.95,
            "learning_rate": 0.1,
            "weight_decay": {"name": "cosine", "start": 0.04, "end": 0.4},
            "layer_decay": 0.6,
            "multipliers": [["stem", 0.2]],
            "clip_norm": 20.0,
            "clip_parameter_norm": 3.0,
            "freeze": [["last/kernel", THAW]],
        },
        params,
        total=STEPS,
        to_steps=lambda duration, where: config.steps(duration, where=where, batch_size=1, total=STEPS),
    )
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(STEPS):
        updates, state = update(ours_of(gradients(step)), state, params)
        params = optax.apply_updates(params, updates)
        if step == THAW - 1:
            np.testing.assert_array_equal(params["last"]["kernel"], start["last/kernel"])
    expected = ours_of(torch_steps(start))
    moved = jax.tree.map(lambda new, old: new - old, params, ours_of(start))
    moved_theirs = jax.tree.map(lambda new, old: new - old, expected, ours_of(start))
    for ours, theirs in ((params, expected), (moved, moved_theirs)):
        errors = jax.tree.map(relative_error, ours, theirs)
        assert max(jax.tree.leaves(errors)) < 1e-5, errors


def test_the_gradients_meet_every_case():
    """Each clip acts at some steps and not at others, or the comparison would not see it."""
    norms = [np.sqrt(sum(np.square(g).sum() for g in gradients(step).values())) for step in range(STEPS)]
    assert min(norms) < 20 < max(norms)
    single = [np.linalg.norm(g) for step in range(STEPS) for g in gradients(step).values()]
    assert np.mean(np.array(single) > 3) == pytest.approx(0.5, abs=0.3)


def test_adagrad_equals_torchs():
    start = gradients(100)
    made, _ = optim.make(
        {
            "name": "adagrad",
            "learning_rate": 0.1,
            "schedule": {"name": "constant"},
            "initial": 0.3,
            "epsilon": 0.0,
            "clip_norm": None,
        },
        start,
        total=STEPS,
        to_steps=lambda duration, where: int(duration),
    )
    params, state = start, made.init(start)
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    optimizer = torch.optim.Adagrad(theirs.values(), lr=0.1, initial_accumulator_value=0.3, eps=0.0)
    for step in range(STEPS):
        updates, state = made.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
        for name, gradient in gradients(step).items():
            theirs[name].grad = torch.tensor(gradient)
        optimizer.step()
    for name, value in params.items():
        assert relative_error(np.asarray(value), theirs[name].detach().numpy()) < 1e-5, name
