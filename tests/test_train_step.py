"""One update: accumulation equals the whole batch, what is not finite changes nothing, and the rest of the contract."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from vitfm import optim, train_state, train_step, tree
from vitfm.config import ConfigError
from vitfm.data import augment
from vitfm.data.facts import Facts
from vitfm.objectives import base, clip

BATCH = 16


def assert_equal(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Each leaf to a relative error of `tolerance`."""
    for (name, a), b in zip(tree.named_leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), name
        assert a.dtype == b.dtype, name


# CLIP, whose loss couples the batch.


@functools.cache
def small_clip() -> tuple[base.Objective, train_step.Preprocess, dict[str, np.ndarray], base.Variables]:
    tower = {"hidden_dim": 16, "depth": 1, "num_heads": 2}
    image = {"name": "vit", "patch_size": 4, "pool": "cls", **tower}
    text = {"name": "text", **tower}
    objective = clip.make(image=image, text=text, embed_dim=12, data=Facts(8, 3, 20, 6))
    preprocess, _ = augment.make(background="random", brightness=0.4, grayscale=0.3)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (BATCH, 8, 8, 4), dtype=np.uint8),
        "text": rng.integers(0, 20, (BATCH, 6), dtype=np.int32),
        "text_mask": np.arange(6) < rng.integers(1, 7, BATCH)[:, None],
        "concept": rng.integers(0, 9, BATCH, dtype=np.int32),
    }
    init = lambda key: objective.init(key, {**batch, "image": jnp.zeros((1, 8, 8, 3))})
    return objective, preprocess, batch, jax.jit(init)(jax.random.key(0))


@functools.cache
def clip_gradients(accumulate: int, key_step: int = 0) -> Any:
    objective, preprocess, batch, variables = small_clip()
    gradients = train_step.gradients_of(objective, preprocess, accumulate)
    keys = train_step.example_keys(0, key_step, BATCH)
    return jax.jit(gradients)(variables.params, variables.extra, batch, keys, jnp.int32(0))


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_cached_accumulation_is_the_whole_batch(accumulate: int):
    value, aux, grads = clip_gradients(1)
    ours = clip_gradients(accumulate)
    assert_equal(ours[0], value)
    assert_equal(ours[1].metrics, aux.metrics)
    assert_equal(ours[2], grads)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) > 1e-6


def test_keys_of_the_examples_matter():
    assert abs(clip_gradients(1, key_step=1)[0] - clip_gradients(1)[0]) > 1e-4


def test_keys_are_a_function_of_seed_step_and_row():
    data = lambda *args: np.asarray(jax.random.key_data(train_step.example_keys(*args)))
    np.testing.assert_array_equal(data(3, 5, 4), data(3, 5, 8)[:4])
    everything = np.concatenate([data(seed, step, 8) for seed in (3, 4) for step in (5, 6)])
    assert len({tuple(key) for key in everything}) == 32


def test_constrain_clamps_the_scale_after_the_update():
    objective, preprocess, batch, variables = small_clip()
    up = optax.stateless(lambda grads, params: jax.tree.map(jnp.ones_like, grads))
    step = train_step.make(train_step.gradients_of(objective, preprocess), objective, up, lambda step: 1.0, seed=0)
    state = started(objective, up, variables)
    scales = []
    for _ in range(3):
        state, _ = jax.jit(step)(state, batch)
        scales.append(float(jnp.exp(state.params["logit_scale"])))
    np.testing.assert_allclose(scales, [np.e / 0.07, 100, 100], rtol=1e-5)


# A toy whose loss is a mean over examples, with noise, a running average and a teacher.


def toy(accumulate: Any = "mean", why_not: str = "") -> base.Objective:
    """Regression: `extra` holds the mean of the inputs seen, and a teacher that is the new parameters."""

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        noise = 0.3 * jax.vmap(jax.random.normal)(key)
        errors = batch["x"] @ params["kernel"] + noise + jnp.sqrt(params["root"] * batch["y"]) - batch["y"]
        average = 0.9 * extra["average"] + 0.1 * batch["x"].mean(0)
        return jnp.square(errors).mean(), base.Aux({"error": errors.mean()}, {**extra, "average": average})

    def after_update(params: base.Params, extra: base.Extra, step: jax.Array) -> base.Extra:
        return {**extra, "teacher": params["kernel"] + step}

    return base.Objective(
        init=lambda key, batch: base.Variables(
            {"kernel": jnp.ones(3), "root": jnp.ones(())}, {"average": jnp.zeros(3), "teacher": jnp.zeros(3)}
        ),
        loss=loss,
        predict={},
        accumulate=accumulate,
        after_update=after_update,
        why_not=why_not,
    )


def toy_batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(BATCH, 3)).astype(np.float32), "y": rng.uniform(1, 2, BATCH).astype(np.float32)}


keep: train_step.Preprocess = lambda batch, keys: batch


def started(
    objective: base.Objective,
    optimizer: optax.GradientTransformation,
    variables: base.Variables | None = None,
    ema: bool = False,
) -> train_state.TrainState:
    return train_state.create(variables or objective.init(jax.random.key(0), {}), optimizer, ema=ema)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_mean_accumulation_is_the_whole_batch(accumulate: int):
    objective, keys = toy(), train_step.example_keys(0, 0, BATCH)
    variables = objective.init(keys[0], {})
    arguments = (variables.params, variables.extra, toy_batch(), keys, jnp.int32(0))
    whole, parts = (jax.jit(train_step.gradients_of(objective, keep, n))(*arguments) for n in (1, accumulate))
    assert_equal(parts[0], whole[0])
    assert_equal(parts[1].metrics, whole[1].metrics)
    assert_equal(parts[1].extra["average"], whole[1].extra["average"])
    assert_equal(parts[2], whole[2])


def test_preprocessing_sees_the_keys_of_its_micro_batch():
    noisy: train_step.Preprocess = lambda batch, keys: {**batch, "x": jax.vmap(lambda k: jax.random.normal(k, 3))(keys)}
    objective, keys = toy(), train_step.example_keys(0, 0, BATCH)
    variables = objective.init(keys[0], {})
    arguments = (variables.params, variables.extra, toy_batch(), keys, jnp.int32(0))
    whole, parts = (jax.jit(train_step.gradients_of(objective, noisy, n))(*arguments) for n in (1, 4))
    assert_equal(parts[2], whole[2])


def test_an_objective_may_refuse_accumulation_and_says_why():
    objective = toy(None, "its queue would see the batch in pieces")
    with pytest.raises(ConfigError, match=r"accumulate = 4.*its queue would see the batch in pieces"):
        train_step.gradients_of(objective, keep, 4)
    train_step.gradients_of(objective, keep, 1)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_what_never_moves_has_no_backward_pass(accumulate: int):
    """The tower's gradient is 0, the others' are as they were, and the compiler finds less to do."""
    objective, preprocess, batch, variables = small_clip()
    still = optim.still({"freeze": ["^image/"]}, variables.params)
    keys, found, work = train_step.example_keys(0, 0, BATCH), [], []
    # As users compile it: without these emitters the smaller program rounds some sums otherwise.
    options = {"xla_cpu_use_fusion_emitters": True} if tiny.FASTER in os.environ["XLA_FLAGS"] else {}
    for learned in (objective, base.holding(objective, still)):
        gradients = jax.jit(train_step.gradients_of(learned, preprocess, accumulate))
        compiled = gradients.lower(variables.params, variables.extra, batch, keys, jnp.int32(0)).compile(options)
        found.append(compiled(variables.params, variables.extra, batch, keys, jnp.int32(0))[2])
        work.append(compiled.cost_analysis()["flops"])
    whole, held = (dict(tree.named_leaves(grads)) for grads in found)
    for name, frozen in tree.named_leaves(still):
        np.testing.assert_allclose(held[name], 0 if frozen else whole[name], rtol=1e-4, atol=1e-7, err_msg=name)
    assert any(leaf for _, leaf in tree.named_leaves(still)) and work[1] < 0.8 * work[0]


def steps_of(optimizer: optax.GradientTransformation, **options: Any) -> Any:
    gradients = train_step.gradients_of(toy(), keep)
    return jax.jit(train_step.make(gradients, toy(), optimizer, lambda step: 0.1 * (step + 1), seed=0, **options))


def test_a_step_is_the_optimizers_update():
    optimizer = optax.sgd(0.1)
    state = started(toy(), optimizer)
    new, metrics = steps_of(optimizer)(state, toy_batch())
    keys = train_step.example_keys(0, 0, BATCH)
    value, aux, grads = train_step.gradients_of(toy(), keep)(state.params, state.extra, toy_batch(), keys, state.step)
    assert_equal(new.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads))
    assert_equal(new.extra, {"average": aux.extra["average"], "teacher": new.params["kernel"]})
    assert int(new.step) == 1
    expected = {
        "loss": value,
        "error": aux.metrics["error"],
        "gradient_norm": optax.global_norm(grads),
        "parameter_norm": optax.global_norm(new.params),
        "learning_rate": 0.1,
        "healthy": 1.0,
    }
    as_floats = lambda scalars: {name: float(scalar) for name, scalar in scalars.items()}
    assert as_floats(metrics) == pytest.approx(as_floats(expected), rel=1e-5)
    later, metrics = steps_of(optimizer)(new, toy_batch())
    assert float(metrics["learning_rate"]) == pytest.approx(0.2)
    np.testing.assert_allclose(later.extra["teacher"], later.params["kernel"] + 1)  # `step` is the one just made.


@pytest.mark.parametrize(
    ("spoil", "finite_loss"),
    [({"x": np.nan}, False), ({"x": np.inf}, False), ({"y": 0.0}, True)],  # The square root has no slope at 0.
    ids=["nan", "inf", "gradient only"],
)
def test_what_is_not_finite_changes_nothing_and_is_remembered(spoil: dict[str, float], finite_loss: bool):
    optimizer = optax.adam(0.1)
    step = steps_of(optimizer, ema_decay=0.5)
    state, _ = step(started(toy(), optimizer, ema=True), toy_batch())
    assert bool(state.healthy)
    bad = toy_batch(1)
    for name, value in spoil.items():
        bad[name][0] = value
    after, metrics = step(state, bad)
    assert bool(np.isfinite(metrics["loss"])) == finite_loss
    assert not metrics["healthy"]
    for _ in range(2):  # Also once the batches are good again.
        assert not after.healthy
        jax.tree.map(np.testing.assert_array_equal, after.replace(healthy=state.healthy), state)
        after, metrics = step(after, toy_batch(2))
        assert not metrics["healthy"]


def test_moving_average_follows_the_parameters():
    optimizer = optax.sgd(0.1)
    step = steps_of(optimizer, ema_decay=0.75)
    state = started(toy(), optimizer, ema=True)
    expected = np.asarray(state.params["kernel"])
    for seed in range(3):
        state, _ = step(state, toy_batch(seed))
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["kernel"])
        np.testing.assert_allclose(state.ema["kernel"], expected, rtol=1e-6)
    assert np.abs(state.ema["kernel"] - state.params["kernel"]).max() > 1e-3
    plain, _ = steps_of(optimizer)(started(toy(), optimizer), toy_batch())
    assert plain.ema is None
