"""DeiT: labels, and a teacher's answers through a token of their own (Touvron et al. 2021, arXiv:2012.12877)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import classification
from vitfm.losses.distillation import divergence
from vitfm.models import heads, probes, statistics
from vitfm.objectives import base, supervised


def make(
    *,
    model: Mapping[str, Any],
    distillation: Literal["hard", "soft"] = "hard",
    balance: float | None = None,
    temperature: float = 3.0,
    label_smoothing: float = 0.1,
    head_init: heads.Start = "zeros",
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    teacher: base.Teacher | None = None,
) -> base.Objective:
    """Cross-entropy with `label`, int [B] or shares [B,K], and with what a frozen teacher says of the same `image`.

    Hard (equation 3): the teacher's best class is a second label, `(1 - b) CE(z, y) + b CE(z_d, argmax z_t)`, without
    smoothing. Soft (equation 2): `(1 - b) CE(z, y) + b τ² KL(softmax(z_t / τ), softmax(z_d / τ))`. The teacher sees the
    student's augmented and mixed images. `z` are the logits of the class token's head, `z_d` of the distillation
    token's; their mean predicts (section 4). An encoder that does not pool both has one head for both terms. `extra`
    holds the teacher and, with an encoder that has batch normalisation, its running statistics; then nothing is
    accumulated.

    The published code divides the soft term by B K instead of B: its `balance` weighs K times less.

    Args:
      model: the encoder: a `vitfm.models` name and its options; with a distillation token it is a ViT with
        distillation_token = True and pool = "cls_dist".
      distillation: "hard", which the paper recommends, or "soft".
      balance: b, the teacher's weight; 0.5 for hard and 0.1 for soft distillation where None.
      temperature: τ of soft distillation.
      label_smoothing: of the true labels, see `supervised`.
      head_init: the heads' kernels at the start, see `vitfm.models.heads`.
      data: facts about the batches: `image_size`, `classes`, `num_classes`, `multi_label`.
      dtype: compute dtype.
      teacher: a classifier of the same classes.

    Raises:
      ConfigError: the data has no labels, the teacher has other classes, or an option is out of range.
    """
    supervised.check(data, "softmax", label_smoothing)
    balance = {"hard": 0.5, "soft": 0.1}[distillation] if balance is None else balance
    _check(balance, temperature, data, teacher)
    tower = models.make({"name": "vit", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype)
    head = supervised.head_of(tower, data.num_classes, head_init, 0.0, None, dtype)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key, 3)
        encoder = tower.init(keys[0], batch["image"][:1])
        scores = head.init(keys[1], jnp.zeros((1, tower.hidden_dim)))
        params = {"encoder": encoder["params"], "head": scores["params"]}
        return base.Variables(params, {base.FROZEN: base.taught(teacher).init(keys[2]), **statistics.start(encoder)})

    def both(params: base.Params, pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B,D] -> what is compared with labels and what with the teacher, [B,K] each."""
        if isinstance(head, heads.Distilled):
            return head.apply({"params": params["head"]}, pooled, method="both")
        scores = head.apply({"params": params["head"]}, pooled)
        return scores, scores

    def logits(params: base.Params, image: jax.Array) -> jax.Array:
        pooled = tower.apply(statistics.variables(params["encoder"]), image).pooled
        return head.apply({"params": params["head"]}, pooled)

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        said = base.taught(teacher).predict("logits", extra, batch["image"])
        features, changed = statistics.train(tower, params["encoder"], extra, batch["image"], key)
        own, distilled = both(params, features.pooled)
        label, best = batch["label"], said.argmax(-1)
        own_term = classification.softmax(own, classification.targets(label, data.num_classes, label_smoothing))
        if distillation == "hard":
            term = classification.softmax(distilled, classification.targets(best, data.num_classes))
        else:
            term = divergence(said, distilled, temperature)
        metrics = {
            "accuracy": classification.hits(own, label).mean(),
            "agreement": classification.hits(distilled, best).mean(),
            "teacher_accuracy": classification.hits(said, label).mean(),
        }
        return ((1 - balance) * own_term + balance * term).mean(), base.Aux(metrics, changed)

    predict = {**probes.predictions(tower), "logits": logits}
    return base.Objective(init, loss, predict, **statistics.terms(tower))


def _check(balance: float, temperature: float, data: Any, teacher: base.Teacher | None) -> None:
    """Refuses what is out of range, and a teacher of other classes."""
    if not 0 <= balance <= 1:
        raise ConfigError(f"config.objective.balance = {balance} must be from 0 to 1.")
    if temperature <= 0:
        raise ConfigError(f"config.objective.temperature = {temperature} must be above 0.")
    if teacher is None:
        return
    if teacher.data.num_classes != data.num_classes:
        raise ConfigError(
            f"config.teacher knows {teacher.data.num_classes} classes, and config.data.label makes {data.num_classes}."
        )
    here, there = data.classes, teacher.data.classes
    if here != there and set(here) == set(there):
        raise ConfigError(
            "config.teacher knows the classes of config.data.label in another order: set config.data.label.classes to "
            f"its own, {', '.join(map(repr, there[:3]))}, ..."
        )
