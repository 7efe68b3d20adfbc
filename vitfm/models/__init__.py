"""Flax modules. A name in a recipe is a file here, or a dotted path to a module of your own.

A model file offers `make(**options) -> flax.linen.Module`. Image encoders return `Features`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vitfm import config


@flax.struct.dataclass
class Features:
    """What an encoder makes of a batch.

    Attributes:
      pooled: [B, D], one vector an image or text.
      tokens: [B, N, D]: `prefix` special tokens, then the patches in row-major order (or the text's tokens).
      grid: (rows, columns) of patches; () for text, and for padded patches, where each image has its own.
      prefix: number of special tokens (class, registers) before the patches.
      layers: where the caller asked for them, the tokens [B, N, D] of the last blocks, each after the final norm.
      mask: bool [B, N], the tokens that are no padding; None where all are. What padding became means nothing.
    """

    pooled: jax.Array
    tokens: jax.Array
    grid: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())
    prefix: int = flax.struct.field(pytree_node=False, default=0)
    layers: tuple[jax.Array, ...] = ()
    mask: jax.Array | None = None

    def mean(self, tokens: jax.Array) -> jax.Array:
        """Of what was made of the patches: [B, ..., N, D], such as `tokens` or stacked `layers` -> [B, ..., D]."""
        patches = tokens[..., self.prefix :, :]
        if self.mask is None:
            return patches.mean(-2)
        real = self.mask[:, self.prefix :].reshape(len(patches), *[1] * (patches.ndim - 3), -1, 1)
        return jnp.where(real, patches, 0).sum(-2) / real.sum(-2).astype(patches.dtype)


def make(spec: Mapping[str, Any], *, where: str, **context: Any) -> nn.Module:
    """The module that `spec["name"]` names, made with the other keys of `spec`, where `size` stands for several."""
    return config.build("models", sized(spec, where), where=where, **context)


def sized(spec: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`spec` with the options that its `size` stands for, a name in `SIZES` of the model's module; given ones win.

    Raises:
      ConfigError: the module has no such size.
    """
    if "size" not in spec or not isinstance(spec.get("name"), str):
        return dict(spec)
    sizes = getattr(config.module("models", spec["name"]), "SIZES", {})
    if spec["size"] not in sizes:
        known = config.nearest(spec["size"], list(sizes))
        raise config.ConfigError(f"config.{where}.size = {spec['size']!r} is no size of {spec['name']}: {known}")
    return {**sizes[spec["size"]], **{key: value for key, value in spec.items() if key != "size"}}
