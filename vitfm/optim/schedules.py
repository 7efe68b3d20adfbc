"""Schedules: `make`, step -> factor in [0, 1] of the peak learning rate, and `value`, step -> any other number.

A `name` of a learning rate's schedule is a function here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from vitfm import config


def cosine(*, total: int, warmup: int = 0, end: float = 0.0, length: int = 0) -> optax.Schedule:
    """Linear warm-up, then half a cosine down to `end` at the last step (Loshchilov and Hutter 2017).

    Args:
      total: steps of the run.
      warmup: steps of warm-up.
      end: factor at the end.
      length: the step from which on it is `end`; 0 for the last one.
    """
    return _after_warmup(warmup, length or total, lambda t: end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * t)))


def linear(*, total: int, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Linear warm-up, then linearly down to `end` at the last step."""
    return _after_warmup(warmup, total, lambda t: 1 - (1 - end) * t)


def constant(*, total: int, warmup: int = 0) -> optax.Schedule:
    """Linear warm-up, then 1."""
    return _after_warmup(warmup, total, jnp.ones_like)


def trapezoid(*, total: int, warmup: int = 0, cooldown: int = 0) -> optax.Schedule:
    """Linear warm-up, then 1, then linearly to 0 over the last `cooldown` steps (warmup-stable-decay)."""

    def factor(step: Any) -> Any:
        down = jnp.clip((total - step) / max(cooldown, 1), 0, 1)
        return _ramp(step, warmup) * (down if cooldown else 1.0)

    return factor


def steps(*, total: int, warmup: int = 0, at: Sequence[float], factor: float = 0.1) -> optax.Schedule:
    """Linear warm-up, then 1, times `factor` at each of the shares `at` of the run, as for convolutional networks."""

    def value(step: Any) -> Any:
        passed = sum((step >= share * total).astype(jnp.float32) for share in at)
        return _ramp(step, warmup) * factor**passed

    return lambda step: value(jnp.asarray(step))


def rsqrt(*, total: int, warmup: int = 0, timescale: int = 10_000, cooldown: int = 0) -> optax.Schedule:
    """Linear warm-up, then an inverse square root, then linearly to 0 (Zhai et al. 2022, arXiv:2106.04560)."""

    def factor(step: Any) -> Any:
        decayed = jnp.sqrt(timescale / jnp.maximum(timescale, step - warmup + timescale))
        down = jnp.clip((total - step) / max(cooldown, 1), 0, 1)
        return _ramp(step, warmup) * decayed * (down if cooldown else 1.0)

    return factor


def make(
    spec: Mapping[str, Any],
    *,
    total: int,
    to_steps: Callable[[config.Duration, str], int],
    where: str = "optim.schedule",
) -> optax.Schedule:
    """The schedule `spec["name"]` names; its other keys are the function's, with lengths as durations.

    Raises:
      ConfigError: unknown schedule or option, or a warm-up longer than the run.
    """
    functions = (cosine, linear, constant, trapezoid, steps, rsqrt)
    known = {function.__name__: function for function in functions}
    if spec.get("name") not in known:
        raise config.ConfigError(
            f"config.{where}.name = {spec.get('name')!r}: {config.nearest(spec.get('name'), list(known))}"
        )
    function = known[spec["name"]]
    lengths = [
        name for name, parameter in inspect.signature(function).parameters.items() if parameter.annotation == "int"
    ]
    options = {
        key: to_steps(value, f"{where}.{key}") if key in lengths else value
        for key, value in spec.items()
        if key != "name"
    }
    phases = options.get("warmup", 0) + options.get("cooldown", 0)
    if phases > total:
        raise config.ConfigError(f"config.{where}: warm-up and cool-down of {phases} steps in a run of {total}.")
    if not phases <= options.get("length", total) <= total:
        raise config.ConfigError(
            f"config.{where}.length = {spec['length']!r} is {options['length']} steps, of which {phases} warm up, in a "
            f"run of {total}."
        )
    return config.call(function, options, where=where, total=total)


def value(
    spec: float | Mapping[str, Any],
    *,
    total: int,
    to_steps: Callable[[config.Duration, str], int],
    where: str,
) -> optax.Schedule:
    """A number that may change over the run: a momentum, a temperature, a weight decay.

    Args:
      spec: the number; or `name` ("cosine", "linear", or "switch", which stays at its start until it is at its end),
        `start`, its value at step 0, `end`, its value from step `length` on, and `length`, a duration: the whole run by
        default.
      total: steps of the run.
      to_steps: (duration, where) -> steps.
      where: the path of `spec` in the recipe, for messages.

    Returns:
      step -> value; the step may be traced.

    Raises:
      ConfigError: neither a number nor such a mapping, or a length beyond the run.
    """
    if not isinstance(spec, Mapping):
        if isinstance(spec, bool) or not isinstance(spec, int | float):
            raise config.ConfigError(
                f"config.{where} = {spec!r} is neither a number nor a schedule: name, start, end, length."
            )
        return lambda step: spec
    shapes = {
        "cosine": lambda t: 0.5 * (1 + jnp.cos(jnp.pi * t)),
        "linear": lambda t: 1 - t,
        "switch": lambda t: jnp.where(t < 1, 1.0, 0.0),
    }
    if spec.get("name") not in shapes:
        raise config.ConfigError(
            f"config.{where}.name = {spec.get('name')!r}: {config.nearest(spec.get('name'), list(shapes))}"
        )

    def course(*, start: float, end: float, length: config.Duration = "100%") -> optax.Schedule:
        steps = to_steps(length, f"{where}.length")
        if not 0 < steps <= total:
            raise config.ConfigError(f"config.{where}.length = {length!r} is {steps} steps in a run of {total}.")
        left = shapes[spec["name"]]
        return lambda step: end + (start - end) * left(jnp.clip(step / steps, 0, 1))

    return config.call(course, {key: given for key, given in spec.items() if key != "name"}, where=where)


def _ramp(step: Any, warmup: int) -> Any:
    """0 at step 0 without warm-up is never wanted: the first step of a warm-up of n has factor 1/n."""
    return jnp.minimum(1.0, (step + 1) / max(warmup, 1)) if warmup else 1.0


def _after_warmup(warmup: int, total: int, shape: Callable[[Any], Any]) -> optax.Schedule:
    """`shape` over [0, 1] from the end of the warm-up to the end of the run, times the warm-up's ramp."""

    def factor(step: Any) -> Any:
        progress = jnp.clip((step - warmup) / max(total - warmup, 1), 0, 1)
        return jnp.where(step < warmup, _ramp(step, warmup), shape(progress))

    return factor
