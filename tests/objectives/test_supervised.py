"""The supervised objective: labels of every kind, weights, drop path, accumulation, and what it refuses."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import train_step, tree
from vitfm.config import ConfigError
from vitfm.data.facts import Facts
from vitfm.objectives import base

BATCH, CLASSES = 8, ("cat", "cow", "dog", "hen")
K = len(CLASSES)
TOWER = {"patch_size": 4, "hidden_dim": 16, "depth": 2, "num_heads": 2}
keep: train_step.Preprocess = lambda batch, keys: batch


def facts(classes: tuple[str, ...] = CLASSES, multi_label: bool = False) -> Facts:
    return Facts(image_size=8, channels=3, vocab_size=0, text_length=0, classes=classes, multi_label=multi_label)


def made(data: Facts | None = None, model: dict[str, Any] = {}, **options: Any) -> base.Objective:
    options = {"head_init": "fan_in", **options}
    spec = {"name": "supervised", "model": {**TOWER, **model}, **options}
    return base.make(spec, data=data or facts(), dtype=jnp.float32)


def some_batch(label: str = "one", **columns: Any) -> dict[str, np.ndarray]:
    """Eight images with labels: "one" int [B], "mixed" or "many" float [B, K]."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(BATCH, 8, 8, 3)).astype(np.float32)
    labels = {
        "one": rng.integers(0, K, BATCH, dtype=np.int32),
        "mixed": rng.dirichlet([0.3] * K, BATCH).astype(np.float32),
        "many": (rng.uniform(size=(BATCH, K)) < 0.4).astype(np.float32),
    }
    return {"image": image, "label": labels[label], **columns}


def started(objective: base.Objective) -> Any:
    return jax.jit(objective.init)(jax.random.key(0), some_batch()).params


@functools.cache
def params() -> Any:
    """Of every objective here that has a linear head."""
    return started(made())


def loss_of(objective: base.Objective, batch: Any, params: Any) -> tuple[float, float]:
    """The loss and the accuracy."""
    keys = train_step.example_keys(0, 0, BATCH)
    value, aux = jax.jit(objective.loss)(params, {}, batch, keys, jnp.int32(0))
    assert not aux.extra
    return float(value), float(aux.metrics["accuracy"])


@functools.cache
def logits() -> np.ndarray:
    """Of the batch, [B, K]."""
    return np.asarray(jax.jit(made().predict["logits"])(params(), some_batch()["image"]), np.float64)


def negative_log(loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each class's chance and of its complement's, [B, K]."""
    scores = logits()
    if loss == "softmax":
        chance = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        return -np.log(chance), np.zeros_like(chance)
    chance = 1 / (1 + np.exp(-scores))
    return -np.log(chance), -np.log(1 - chance)


@pytest.mark.parametrize(
    ("loss", "label"), [("softmax", "one"), ("softmax", "mixed"), ("sigmoid", "one"), ("sigmoid", "many")]
)
def test_loss_is_the_mean_cross_entropy(loss: str, label: str):
    batch = some_batch(label)
    objective = made(facts(multi_label=label == "many"), loss=loss, label_smoothing=0.1)
    exact = np.eye(K)[batch["label"]] if label == "one" else batch["label"]
    targets = 0.9 * exact + 0.1 / K
    own, other = negative_log(loss)
    value, accuracy = loss_of(objective, batch, params())
    assert value == pytest.approx((targets * own + (1 - targets) * other).sum(1).mean(), rel=1e-5)
    best = logits().argmax(1)
    right = exact[np.arange(BATCH), best] == exact.max(1)
    assert accuracy == pytest.approx((right & (exact.max(1) > 0)).mean())
    assert 0 < accuracy < 1


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_weights_of_classes_and_of_examples(loss: str):
    weight = np.array([0, 1, 2, 0.5, 1, 1, 3, 0], np.float32)
    batch = some_batch(weight=weight)
    objective = made(loss=loss, class_weights={"hen": 3.0, "cow": 0.25})
    own, other = negative_log(loss)
    targets, by_class = np.eye(K)[batch["label"]], np.array([1, 0.25, 1, 3])
    values = (by_class * (targets * own + (1 - targets) * other)).sum(1)
    assert loss_of(objective, batch, params())[0] == pytest.approx((values * weight).sum() / BATCH, rel=1e-5)
    ones = some_batch(weight=np.ones(BATCH, np.float32))
    plain = loss_of(made(loss=loss), some_batch(), params())
    assert loss_of(made(loss=loss), ones, params()) == pytest.approx(plain, rel=1e-6)


def test_it_starts_undecided_and_leaves_the_encoder_alone():
    objective = made(head_init="zeros")
    function = jax.jit(train_step.gradients_of(objective, keep))
    keys = train_step.example_keys(0, 0, BATCH)
    value, _, grads = function(started(objective), {}, some_batch(), keys, jnp.int32(0))
    assert float(value) == pytest.approx(math.log(K), rel=1e-6)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["encoder"]))
    assert np.any(grads["head"]["logits"]["kernel"])


@functools.cache
def gradients(accumulate: int) -> Any:
    """Loss, aux and gradients as a function of the step that the keys come from; half of the last block is dropped."""
    objective = made(model={"drop_path_rate": 0.5}, label_smoothing=0.1, class_weights={"dog": 2.0})
    batch = some_batch("mixed", weight=np.linspace(0, 2, BATCH, dtype=np.float32))
    function = jax.jit(train_step.gradients_of(objective, keep, accumulate))
    return lambda step: function(params(), {}, batch, train_step.example_keys(0, step, BATCH), jnp.int32(0))


def test_accumulation_is_the_whole_batch_drop_path_included():
    value, aux, grads = gradients(1)(0)
    ours = gradients(4)(0)
    assert float(ours[0]) == pytest.approx(float(value), rel=1e-5)
    assert float(ours[1].metrics["accuracy"]) == pytest.approx(float(aux.metrics["accuracy"]))
    for (name, a), b in zip(tree.named_leaves(ours[2]), jax.tree.leaves(grads), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b), name
        assert np.linalg.norm(b) > 1e-5, name


def test_drop_path_draws_in_training_only():
    values = [float(gradients(1)(step)[0]) for step in range(3)]
    assert np.ptp(values) > 1e-3
    objective = made(model={"drop_path_rate": 0.5})
    found = jax.jit(objective.predict["logits"])(params(), some_batch()["image"])
    np.testing.assert_allclose(found, logits(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["cls", "gap"])
def test_predictions(pool: str):
    objective = made(model={"pool": pool}, head_hidden_dim=24)
    params = jax.eval_shape(objective.init, jax.random.key(0), some_batch()).params
    shapes = {
        name: jax.eval_shape(function, params, some_batch()["image"]).shape
        for name, function in objective.predict.items()
    }
    expected = {
        "logits": (BATCH, K),
        "embed_image": (BATCH, 16),
        "features": (BATCH, 2, 1 + (pool == "cls"), 16),
        "patches": (BATCH, 2, 2, 16),
        "attention": (BATCH, 2, 1 if pool == "cls" else 4, 2, 2),
    }
    assert shapes == expected
    assert params["head"]["hidden"]["kernel"].shape == (16, 24)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (facts(()), {}, r"needs labels, and config\.data makes none: set config\.data\.label"),
        (facts(multi_label=True), {}, r"loss = 'softmax' gives an image one class.*'sigmoid'"),
        (facts(("cat",)), {}, "the single class 'cat' is always 0"),
        (facts(), {"label_smoothing": 1.0}, r"label_smoothing = 1\.0 is a share"),
        (facts(), {"label_smoothing": -0.1}, r"label_smoothing = -0\.1 is a share"),
        (facts(), {"class_weights": {"cats": 2.0}}, "'cats', which is none of the 4 classes; there are such as 'cat'"),
        (facts(), {"class_weights": {"cat": -2.0}}, "no weight may be below 0"),
        (facts(), {"class_weights": {"cat": "2"}}, r"config\.objective\.class_weights = .* has the wrong type"),
        (facts(), {"loss": "hinge"}, r"config\.objective\.loss = 'hinge' has the wrong type"),
        (facts(), {"head_init": "ones"}, r"config\.objective\.head_init = 'ones' has the wrong type"),
        (facts(), {"model": {"name": "vitt"}}, "no models module 'vitt': did you mean 'vit'"),
        (facts(), {"model": {"dept": 3}}, r"config\.objective\.model\.dept: did you mean 'depth'"),
    ],
)
def test_what_does_not_go_together_is_refused(data: Facts, options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(data, **options)
