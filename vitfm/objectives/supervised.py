"""Classification: ViT/JFT (Dosovitskiy et al. 2021, arXiv:2010.11929), AugReg (Steiner et al. 2021, arXiv:2106.10270)
and DeiT (Touvron et al. 2021, arXiv:2012.12877), from scratch or from another objective's encoder.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vitfm import config, models
from vitfm.losses import classification
from vitfm.models import heads, probes, statistics
from vitfm.objectives import base


def make(
    *,
    model: Mapping[str, Any],
    loss: Literal["softmax", "sigmoid"] = "softmax",
    label_smoothing: float = 0.0,
    class_weights: Mapping[str, float] = {},
    head_init: heads.Start = "zeros",
    head_bias: float = 0.0,
    head_hidden_dim: int | None = None,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Cross-entropy of `image` [B,H,W,C] and `label`: int [B], or float [B,K] (several classes, or mixed images).

    A batch may hold `weight` [B]: factors on its examples' losses. The loss is the sum of these divided by B, not by
    the sum of the weights, so that it stays a mean over examples and accumulation is exact.

    With an encoder that has batch normalisation, `extra` holds its running statistics, and nothing is accumulated.

    Args:
      model: the encoder: a `vitfm.models` name and its options, drop path among them. With pool = "cls_dist" the class
        and the distillation token have a linear head each, whose mean are the logits (DeiT).
      loss: "softmax", one class an image, or "sigmoid", each class on its own (summed over the classes).
      label_smoothing: targets become `(1 - s) * label + s / K`.
      class_weights: class name -> factor on its terms of the loss; 1 for the classes that are not named.
      head_init: the head's kernel at the start: "zeros" or "fan_in", see `vitfm.models.heads`.
      head_bias: the head's biases at the start. With "sigmoid" one near -log K makes everything wrong at first, as it
        nearly is; big_vision takes -6.9 for 1,000 classes and -10 for 20,000.
      head_hidden_dim: width of ViT/JFT's hidden layer in the head; None for a linear head.
      data: facts about the batches: `image_size`, `classes`, `num_classes`, `multi_label`.
      dtype: compute dtype.

    Raises:
      ConfigError: the data has no labels, or options that do not go with them.
    """
    check(data, loss, label_smoothing)
    model = {"name": "vit", "image_size": data.image_size, **model}
    tower = models.make(model, where="objective.model", dtype=dtype)
    head = head_of(tower, data.num_classes, head_init, head_bias, head_hidden_dim, dtype)
    weights = _weights(class_weights, data.classes)
    entropy = classification.softmax if loss == "softmax" else classification.sigmoid

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key)
        encoder = tower.init(keys[0], jax.tree.map(lambda x: x[:1], batch["image"]))
        scores = head.init(keys[1], jnp.zeros((1, tower.hidden_dim)))
        return base.Variables({"encoder": encoder["params"], "head": scores["params"]}, statistics.start(encoder))

    def classified(params: base.Params, features: models.Features) -> jax.Array:
        return head.apply({"params": params["head"]}, features.pooled)

    def logits(params: base.Params, image: jax.Array) -> jax.Array:
        return classified(params, tower.apply(statistics.variables(params["encoder"]), image))

    def cross_entropy(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        features, changed = statistics.train(tower, params["encoder"], extra, batch["image"], key)
        scores, label = classified(params, features), batch["label"]
        values = entropy(scores, classification.targets(label, data.num_classes, label_smoothing), weights)
        if "weight" in batch:
            values = values * batch["weight"]
        return values.mean(), base.Aux({"accuracy": classification.hits(scores, label).mean()}, changed)

    predict = {**probes.predictions(tower), "logits": logits}
    return base.Objective(init, cross_entropy, predict, **statistics.terms(tower))


def head_of(
    tower: Any, classes: int, start: heads.Start, bias: float, hidden_dim: int | None, dtype: jnp.dtype
) -> heads.Linear | heads.Distilled:
    """One linear map, or DeiT's two where the encoder pools class and distillation token."""
    if getattr(tower, "pool", None) != "cls_dist":
        return heads.Linear(classes, start, bias, hidden_dim, dtype)
    if hidden_dim is not None:
        raise config.ConfigError("config.objective.head_hidden_dim: model.pool = 'cls_dist' has two linear heads only.")
    return heads.Distilled(classes, start, bias, dtype)


def check(data: Any, loss: str, label_smoothing: float) -> None:
    """Refuses labels and options that do not go together."""
    if not data.num_classes:
        raise config.ConfigError(
            "This objective needs labels, and config.data makes none: set config.data.label, such as "
            "{'feature': 'label'}."
        )
    if data.multi_label and loss == "softmax":
        raise config.ConfigError(
            "config.objective.loss = 'softmax' gives an image one class, and these have several: set it to 'sigmoid'."
        )
    if data.num_classes == 1 and loss == "softmax":
        raise config.ConfigError(
            f"config.objective.loss = 'softmax' over the single class {data.classes[0]!r} is always 0: check the "
            "feature that config.data.label names."
        )
    if not 0 <= label_smoothing < 1:
        raise config.ConfigError(f"config.objective.label_smoothing = {label_smoothing} is a share, from 0 to below 1.")


def _weights(named: Mapping[str, float], classes: tuple[str, ...]) -> jax.Array | None:
    """[K] in the order of `classes`; None where no class is named."""
    unknown = sorted(named.keys() - set(classes))
    if unknown:
        near = difflib.get_close_matches(unknown[0], classes) or classes[:3]
        raise config.ConfigError(
            f"config.objective.class_weights names {unknown[0]!r}, which is none of the {len(classes)} classes; "
            f"there are such as {', '.join(map(repr, near))}."
        )
    if min(named.values(), default=0) < 0:
        raise config.ConfigError(f"config.objective.class_weights = {dict(named)!r}: no weight may be below 0.")
    return jnp.array([named.get(name, 1.0) for name in classes], jnp.float32) if named else None
