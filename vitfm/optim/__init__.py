"""Optimizers: a name in a recipe is a file here that turns gradients into a direction; the rest is common to all.

gradients -> clip -> direction (adamw.py, muon.py, ...) -> + weight decay on ruled leaves -> * factor of each leaf
-> * learning rate
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from vitfm import config, tree
from vitfm.optim import rules, schedules

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


def still(spec: Mapping[str, Any], params: Any) -> Any:
    """A tree like `params`: whether `freeze` of a recipe's optimizer says that a parameter never moves.

    Raises:
      ConfigError: as `make`.
    """
    begins = rules.beginnings(spec.get("freeze", ()), params, lambda duration, where: 0)
    return jax.tree.map(lambda begin: begin == math.inf, begins)


def _common(
    *,
    direction: optax.GradientTransformation,
    params: Any,
    total: int,
    to_steps: Callable[[config.Duration, str], int],
    learning_rate: float,
    schedule: Mapping[str, Any] = {"name": "cosine"},
    clip_norm: float | None = 1.0,
    clip_parameter_norm: float | None = None,
    clip_module_norm: float | None = None,
    weight_decay: float | Mapping[str, Any] = 0.0,
    decay_rules: Sequence[Sequence[Any]] = DECAY_RULES,
    layer_decay: float | None = None,
    multipliers: Sequence[Sequence[Any]] = (),
    freeze: list[Any] | tuple[Any, ...] = (),
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The options every optimizer has.

    Args:
      learning_rate: its peak.
      schedule: `name` of a function in `schedules` and its options; it multiplies the peak.
      clip_norm: gradients of a larger global L2 norm are scaled down to it; None never clips.
      clip_parameter_norm: then the gradient of each parameter alone likewise.
      clip_module_norm: then that of each module, `encoder`, `head` or whatever else is at the top of the parameters.
      weight_decay: decoupled from the gradient and multiplied by the learning rate (Loshchilov and Hutter 2019); a
        number or a schedule, see `schedules.value`.
      decay_rules: (pattern, whether it decays) by parameter path, the first match wins.
      layer_decay: factor on the learning rate from one layer to the layer before it, see `layers.factors`.
      multipliers: (pattern, factor on the learning rate) by parameter path; the first match wins, the rest have 1.
        Like `layer_decay` they scale the whole update, weight decay included, as a learning rate of a parameter's own
        does in torch.
      freeze: patterns of parameters that never move, and (pattern, duration) of those that stand still for so long from
        the start: neither gradient nor weight decay moves them, their gradients count in no norm that clips, and
        their moments begin with their first step. `(("^encoder/", "5%"),)` lets new heads learn first where the encoder
        comes from another run (`config.init`); of CLIP it is `"^image/tower/"`.
    """
    factor = schedules.make(schedule, total=total, to_steps=to_steps)
    rate = lambda step: learning_rate * factor(step)
    begins = rules.beginnings(freeze, params, to_steps)
    parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    if clip_parameter_norm is not None:
        parts.append(rules.clip_each(clip_parameter_norm, params))
    if clip_module_norm is not None:
        parts.append(rules.clip_modules(clip_module_norm))
    parts.append(rules.begin_at(direction, begins) if freeze else direction)
    if weight_decay:
        mask = tree.by_rule([tuple(rule) for rule in decay_rules], params, where="optim.decay_rules")
        if isinstance(weight_decay, Mapping):
            weight_decay = schedules.value(weight_decay, total=total, to_steps=to_steps, where="optim.weight_decay")
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    if layer_decay is not None or multipliers:
        parts.append(rules.scale_each(rules.factors(multipliers, layer_decay, params)))
    parts.append(optax.scale_by_learning_rate(rate))
    if freeze:
        parts = [rules.gate(begins), *parts, rules.gate(begins)]
    return optax.chain(*parts), rate


_COMMON_KEYS = (
    "learning_rate",
    "schedule",
    "clip_norm",
    "clip_parameter_norm",
    "clip_module_norm",
    "weight_decay",
    "decay_rules",
    "layer_decay",
    "multipliers",
    "freeze",
)
