"""Batch normalisation, and how an objective holds the statistics of an encoder that has it.

Flax keeps running statistics in a collection of their own, `batch_stats`. An objective holds it as
`extra["batch_stats"]`: no gradient moves it, and it is sharded and checkpointed as all of `extra` is. What `predict`
takes is made by `evaluated`, in which the encoder is {"params": ..., "batch_stats": ...} instead of its parameters
alone. Encoders say that they keep statistics by an attribute `has_statistics`; for others nothing here does a thing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features

NAME = "batch_stats"
_WHY_NOT = (
    "its encoder normalises by the statistics of the whole batch, which no micro-batch knows. Take more devices or a "
    "smaller batch_size, or an encoder without batch normalisation (objective.model.name = 'bit', 'convnext', 'vit')."
)


def start(initial: Mapping[str, Any]) -> dict[str, Any]:
    """Of what `tower.init` returned, the part that belongs into `extra`; {} without statistics."""
    return {NAME: initial[NAME]} if NAME in initial else {}


def has(tower: nn.Module) -> bool:
    """Whether an encoder normalises by batch statistics, so that in training no row is independent of the others."""
    return getattr(tower, "has_statistics", False)


def train(
    tower: nn.Module, params: Mapping[str, Any], extra: Mapping[str, Any], images: jax.Array, keys: jax.Array
) -> tuple[Features, dict[str, Any]]:
    """The features of a training batch, normalised by its own statistics, and the entries of `extra` it changes."""
    variables = {"params": params, **start(extra)}
    if NAME not in variables:
        return tower.apply(variables, images, keys=keys), {}
    return tower.apply(variables, images, keys=keys, mutable=[NAME])


def evaluated(params: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters whose "encoder" carries its statistics along, for `predict`."""
    return {**params, "encoder": {"params": params["encoder"], **start(extra)}}


def variables(encoder: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `tower.apply` takes, of an encoder's parameters or of what `evaluated` made of them."""
    return encoder if NAME in encoder else {"params": encoder}


def terms(tower: nn.Module) -> dict[str, Any]:
    """Arguments of `Objective` for a loss that is a mean over examples: `accumulate`, `evaluated`, `why_not`."""
    if not has(tower):
        return {"accumulate": "mean"}
    return {"accumulate": None, "why_not": _WHY_NOT, "evaluated": evaluated}


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167) over all axes but the last.

    As in torch it divides by a batch's biased variance and keeps the unbiased one. Under jit the batch is the global
    one, on however many devices it lives.

    Attributes:
      epsilon: added to the variance.
      momentum: weight of the new batch in the running statistics.
      initial_scale: of every channel.
      dtype: of the output; statistics are float32.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    initial_scale: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[..., D] -> [..., D], by the statistics of `x` where `train`, else by the running ones.

        Raises:
          ConfigError: the caller holds no running statistics.
        """
        width = x.shape[-1]
        if not self.is_initializing() and not self.has_variable(NAME, "mean"):
            raise ConfigError(
                "This encoder normalises by running statistics, which this objective does not hold: take one that "
                "does ('supervised', 'deit', 'distill', 'triplet', 'rotation', 'simclr', 'moco'), or an encoder that "
                "has no batch normalisation ('bit', 'convnext', 'vit')."
            )
        scale = self.param("scale", nn.initializers.constant(self.initial_scale), (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        running_mean = self.variable(NAME, "mean", jnp.zeros, (width,))
        running_variance = self.variable(NAME, "variance", jnp.ones, (width,))
        if train:
            y, mean, variance = normalised(x, scale, bias, self.epsilon)
            if self.is_mutable_collection(NAME):
                count = x.size // width
                blend = lambda old, new: (1 - self.momentum) * old + self.momentum * new
                running_mean.value = blend(running_mean.value, mean)
                running_variance.value = blend(running_variance.value, variance * count / max(count - 1, 1))
            return y.astype(self.dtype)
        factor = scale * jax.lax.rsqrt(running_variance.value + self.epsilon)
        return (x * factor + (bias - running_mean.value * factor)).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[..., D] normalised over all but the last axis, in float32, with the mean [D] and the biased variance [D].

    The gradient is by the output alone, and written out: it takes two sums over the batch, of autodiff's three.
    """
    y, mean, variance, _ = _forward(x, scale, bias, epsilon)
    return y, mean, variance


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, ...]:
    axes, wide = tuple(range(x.ndim - 1)), x.astype(jnp.float32)
    mean = wide.mean(axes)
    variance = jnp.square(wide - mean).mean(axes)
    root = jax.lax.rsqrt(variance + epsilon)
    return (wide - mean) * (root * scale) + bias, mean, variance, root


def _normalised(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[Any, Any]:
    y, mean, variance, root = _forward(x, scale, bias, epsilon)
    return (y, mean, variance), (x, scale, mean, root)


def _backward(epsilon: float, saved: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    x, scale, mean, root = saved
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    normed = (x.astype(jnp.float32) - mean) * root
    by_bias, by_scale = cotangents[0].sum(axes), (cotangents[0] * normed).sum(axes)
    by_x = (cotangents[0] - (by_bias + normed * by_scale) / count) * (root * scale)
    return by_x.astype(x.dtype), by_scale, by_bias


normalised.defvjp(_normalised, _backward)
