"""SGD equals torch's and LARS optax's, where the rate is constant, and the published formula where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import pytest

from tests.parity.reference import relative_error, torch
from vitfm import optim
from vitfm.config import ConfigError

STEPS = 6
SHAPES = {
    "conv/kernel": (3, 3, 4, 6),
    "conv/bias": (6,),
    "norm/scale": (6,),
    "encoder/transformer/blocks/kernel": (2, 4, 5),
}


def drawn(seed: int) -> dict[str, np.ndarray]:
    """Flat: a slash in a key is a slash in a path."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def ours(schedule: str = "constant", **spec: Any) -> dict[str, np.ndarray]:
    params = drawn(100)
    spec = {"learning_rate": 0.1, "schedule": {"name": schedule}, "clip_norm": None, **spec}
    optimizer, _ = optim.make(spec, params, total=STEPS, to_steps=lambda duration, where: int(duration))
    return followed(optimizer, params)


def followed(optimizer: optax.GradientTransformation, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(STEPS):
        updates, state = update(drawn(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_same_path(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    start = drawn(100)
    for name in SHAPES:
        assert np.abs(other[name] - start[name]).max() > 1e-4
        assert relative_error(one[name] - start[name], other[name] - start[name]) < 1e-4, name


@pytest.mark.parametrize(("momentum", "nesterov", "decay"), [(0.9, False, 5e-4), (0.8, True, 0.3), (0.9, False, 0.0)])
def test_sgd_equals_torch(momentum: float, nesterov: bool, decay: float):
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in drawn(100).items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=1.0, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    for step in range(STEPS):
        for name, gradient in drawn(step).items():
            parameters[name].grad = torch.tensor(gradient)
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * step / STEPS))
        optimizer.step()
    found = ours("cosine", name="sgd", momentum=momentum, nesterov=nesterov, coupled_decay=decay)
    assert_same_path(found, {name: p.detach().numpy() for name, p in parameters.items()})


def test_lars_equals_optax():
    named = {name: name == "conv/kernel" for name in SHAPES}
    theirs = optax.lars(0.1, 1e-2, named, trust_coefficient=0.02, trust_ratio_mask=named, momentum=0.8)
    found = ours(name="lars", momentum=0.8, trust=0.02, coupled_decay=1e-2, adapted="conv/kernel$")
    assert_same_path(found, followed(theirs, drawn(100)))


def test_lars_is_the_published_formula_under_a_schedule_and_of_each_stacked_block():
    params, momenta = drawn(100), {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    for step in range(STEPS):
        rate = 0.05 * (1 + np.cos(np.pi * step / STEPS))
        for name, gradient in drawn(step).items():
            if name.endswith("kernel"):
                gradient = gradient + 1e-2 * params[name]
                blocks = range(2) if "blocks" in name else [slice(None)]
                for block in blocks:
                    ratio = 0.02 * np.linalg.norm(params[name][block]) / np.linalg.norm(gradient[block])
                    gradient[block] *= ratio
            momenta[name] = 0.9 * momenta[name] + gradient
            params[name] = params[name] - rate * momenta[name]
    assert_same_path(ours("cosine", name="lars", trust=0.02, coupled_decay=1e-2), params)


def test_lars_leaves_gradients_without_a_length_to_compare():
    params = {"a/kernel": np.zeros((2, 2), np.float32), "b/kernel": np.ones((2, 2), np.float32)}
    optimizer, _ = optim.make(
        {"name": "lars", "learning_rate": 1.0, "schedule": {"name": "constant"}, "clip_norm": None},
        params,
        total=1,
        to_steps=lambda duration, where: int(duration),
    )
    grads = {"a/kernel": np.ones((2, 2), np.float32), "b/kernel": np.zeros((2, 2), np.float32)}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["a/kernel"], -grads["a/kernel"])
    np.testing.assert_array_equal(updates["b/kernel"], grads["b/kernel"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [({"adapted": "weights$"}, r"optim\.adapted that cover nothing"), ({"trust": 0.0}, "trust = 0.0 must be above 0")],
)
def test_lars_refuses_in_words(spec: Mapping[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        ours(name="lars", **spec)
