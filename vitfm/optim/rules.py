"""What an optimizer does to some parameters and not to others, by their paths.

Whatever is said of a parameter is said of each slice of stacked blocks, see `vitfm.optim.layers`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitfm import tree
from vitfm.config import ConfigError, Duration
from vitfm.optim import layers
from vitfm.optim.layers import is_stacked


def factors(multipliers: Sequence[Sequence[Any]], layer_decay: float | None, params: Any) -> Any:
    """A tree like `params`: what each update is multiplied by, the layers' factors times the rules' of `_common`."""
    for rule in multipliers:
        if isinstance(rule, str) or len(rule) != 2 or not isinstance(rule[1], int | float) or rule[1] < 0:
            raise ConfigError(
                f"config.optim.multipliers holds {rule!r}; write (pattern, factor), the factor from 0 up."
            )
    by_name = by_rule(
        [(pattern, np.float32(factor)) for pattern, factor in multipliers], params, np.float32(1), "multipliers"
    )
    if layer_decay is None:
        return by_name
    return jax.tree.map(np.multiply, by_name, layers.factors(layer_decay, params))


def scale_each(factors: Any) -> optax.GradientTransformation:
    """Multiplies each update by its factor."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, factor: u * factor.astype(u.dtype), updates, factors)
    )


def clip_each(norm: float, params: Any) -> optax.GradientTransformation:
    """Scales each parameter's gradient down to an L2 norm of `norm` where it is longer, as in DINO's code."""
    stacked = jax.tree_util.tree_map_with_path(lambda path, _: is_stacked(tree.name(path)), params)

    def clip(gradient: jax.Array, stacked: bool) -> jax.Array:
        axes = tuple(range(int(stacked), gradient.ndim))
        length = jnp.sqrt(jnp.square(gradient).sum(axes, keepdims=True))
        return gradient * jnp.minimum(1.0, norm / (length + 1e-6))

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates, stacked))


def clip_modules(norm: float) -> optax.GradientTransformation:
    """Scales the gradient of each entry at the top of the parameters to an L2 norm of `norm` where it is longer, as
    DINOv2's code does of backbone and heads."""

    def clip(gradient: Any) -> Any:
        scale = jnp.minimum(1.0, norm / (optax.global_norm(gradient) + 1e-6))
        return jax.tree.map(lambda leaf: leaf * scale, gradient)

    return optax.stateless(lambda updates, _: {name: clip(part) for name, part in updates.items()})


def beginnings(freeze: Sequence[Any], params: Any, to_steps: Callable[[Duration, str], int]) -> Any:
    """A tree like `params`: the step that first moves each leaf, 0, or inf for what never moves.

    Args:
      freeze: patterns of what never moves, and (pattern, duration) of what stands still for so long.
      params: tree of shapes.
      to_steps: (duration, where) -> steps.

    Raises:
      ConfigError: an entry is neither, a pattern covers nothing, or nothing is left to move.
    """
    rules = []
    for entry in freeze:
        pair = (entry, None) if isinstance(entry, str) else entry
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ConfigError(f"config.optim.freeze holds {entry!r}; write a pattern, or (pattern, duration).")
        pattern, duration = pair
        rules.append((pattern, math.inf if duration is None else to_steps(duration, "optim.freeze")))
    begins = by_rule(rules, params, 0, "freeze")
    if all(begin == math.inf for begin in jax.tree.leaves(begins)):
        raise ConfigError(f"config.optim.freeze = {list(freeze)!r} freezes every parameter.")
    return begins


def begin_at(direction: optax.GradientTransformation, begins: Any) -> optax.GradientTransformation:
    """`direction`, for each leaf from its step on; until then its state stands still, and what never moves has none.

    As with a gradient of None in torch, a parameter that begins late begins with Adam's first step.
    """

    def from_step(begin: float) -> optax.GradientTransformation:
        if begin == math.inf:
            return optax.set_to_zero()
        return optax.conditionally_mask(direction, lambda step: step >= begin) if begin else direction

    label = lambda begin: {0: "moving", math.inf: "frozen"}.get(begin, f"from_{begin}")
    groups = {label(begin): from_step(begin) for begin in set(jax.tree.leaves(begins))}
    return optax.partition(dict(sorted(groups.items())), jax.tree.map(label, begins))


def gate(begins: Any) -> optax.GradientTransformation:
    """Zero for each leaf until its step."""

    def update(updates: Any, state: optax.ScaleByScheduleState, params: Any = None) -> Any:
        still = lambda u, begin: jnp.where(state.count < begin, jnp.zeros_like(u), u) if begin else u
        return jax.tree.map(still, updates, begins), optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


def by_rule(rules: Sequence[tuple[str, Any]], params: Any, otherwise: Any, where: str) -> Any:
    """`tree.by_rule`; leaves that no rule covers get `otherwise`."""
    try:
        covered = [any(re.search(pattern, name) for pattern, _ in rules) for name, _ in tree.named_leaves(params)]
    except re.error:
        covered = [True]  # `tree.by_rule` says what is wrong.
    rest = [] if all(covered) else [(".*", otherwise)]
    return tree.by_rule([*rules, *rest], params, where=f"optim.{where}")
