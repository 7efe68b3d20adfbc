"""Optimizers: a name in a recipe is a file here that turns gradients into a direction; the rest is common to all.

gradients -> clip -> direction (adamw.py, muon.py, ...) -> + weight decay on ruled leaves -> * learning rate
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from vitfm import config, tree
from vitfm.optim import schedules

# Matrices and embeddings decay; biases, norms and scalars do not (as in open_clip, timm and big_vision).
DECAY_RULES: tuple[tuple[str, bool], ...] = ((r"(kernel|embedding|position)$", True), (".*", False))


def make(
    spec: Mapping[str, Any], params: Any, *, total: int, to_steps: Callable[[config.Duration, str], int]
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a recipe.

    Args:
      spec: `name`, the keys of `_common`, and the options of the module `name`.
      params: tree of the parameters' shapes; rules address it by path.
      total: steps of the run.
      to_steps: (duration, where) -> steps.

    Returns:
      The transformation, and the learning rate as a function of the step.
    """
    shared = {key: spec[key] for key in _COMMON_KEYS if key in spec}
    own = {key: value for key, value in spec.items() if key not in _COMMON_KEYS}
    direction = config.build("optim", own, where="optim", others=_COMMON_KEYS, params=params)
    return config.call(
        _common, shared, where="optim", direction=direction, params=params, total=total, to_steps=to_steps
    )


def _common(
    *,
    direction: optax.GradientTransformation,
    params: Any,
    total: int,
    to_steps: Callable[[config.Duration, str], int],
    learning_rate: float,
    schedule: Mapping[str, Any] = {"name": "cosine"},
    clip_norm: float | None = 1.0,
    weight_decay: float = 0.0,
    decay_rules: Sequence[Sequence[Any]] = DECAY_RULES,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The options every optimizer has.

    Args:
      learning_rate: its peak.
      schedule: `name` of a function in `schedules` and its options; it multiplies the peak.
      clip_norm: gradients of a larger global L2 norm are scaled down to it; None never clips.
      weight_decay: decoupled from the gradient and multiplied by the learning rate (Loshchilov and Hutter 2019).
      decay_rules: (pattern, whether it decays) by parameter path, the first match wins.
    """
    factor = schedules.make(schedule, total=total, to_steps=to_steps)
    rate = lambda step: learning_rate * factor(step)
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    parts.append(direction)
    if weight_decay:
        mask = tree.by_rule([tuple(rule) for rule in decay_rules], params, where="optim.decay_rules")
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    return optax.chain(*parts, optax.scale_by_learning_rate(rate)), rate


_COMMON_KEYS = ("learning_rate", "schedule", "clip_norm", "weight_decay", "decay_rules")
