"""What an image encoder offers to evaluators: pure functions of parameters and preprocessed images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features, statistics

_MOST_LAYERS = 4  # As DINO and DINOv2 probe: the last block, or the last four.


def predictions(
    tower: nn.Module, encoder: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda params: params["encoder"]
) -> dict[str, Callable[..., jax.Array]]:
    """Predict functions of an objective with an image encoder.

    Args:
      tower: the encoder, from `vitfm.models`.
      encoder: the objective's parameters -> the encoder's, or what `vitfm.models.statistics` made of them.

    Returns:
      `embed_image`: (params, image [B,H,W,C]) -> float32 [B,D], the pooled output.
      `features`: likewise -> float32 [B,L,P,D]: of the last L = min(4, depth) blocks, the last one last, the class
        token and the mean of the patches (P = 2), or the mean alone (P = 1).
      `patches`: likewise -> float32 [B,h,w,D], the patches after the last block, on their grid.
      `attention`: likewise -> float32 [B,heads,h,w], how much the class token looks at each patch in the last block;
        only where there is a class token.
    """

    def embed_image(params: Mapping[str, Any], image: jax.Array) -> jax.Array:
        return tower.apply(statistics.variables(encoder(params)), image).pooled.astype(jnp.float32)

    def features(params: Mapping[str, Any], image: jax.Array) -> jax.Array:
        found = tower.apply(statistics.variables(encoder(params)), image, last=min(_MOST_LAYERS, tower.depth))
        layers = jnp.stack(found.layers, axis=1).astype(jnp.float32)
        mean = found.mean(layers)
        return jnp.stack([layers[:, :, 0], mean] if found.prefix else [mean], axis=2)

    def attention(params: Mapping[str, Any], image: jax.Array) -> jax.Array:
        found, kept = tower.apply(statistics.variables(encoder(params)), image, mutable=["intermediates"])
        if not found.grid:
            raise ConfigError("Attention is drawn for images of one shape, not for padded patches of several.")
        weights = _last_weights(kept["intermediates"]["transformer"])
        rows = weights[:, :, 0, found.prefix :]
        return rows.reshape(*rows.shape[:2], *found.grid).astype(jnp.float32)

    def patches(params: Mapping[str, Any], image: jax.Array) -> jax.Array:
        return on_grid(tower.apply(statistics.variables(encoder(params)), image)).astype(jnp.float32)

    offered = {"embed_image": embed_image, "features": features, "patches": patches}
    return offered | ({"attention": attention} if tower.pool == "cls" else {})


def on_grid(features: Features) -> jax.Array:
    """The patches [B,h,w,D], without the special tokens.

    Raises:
      ConfigError: each image has a grid of its own.
    """
    if not features.grid:
        raise ConfigError("Patches have no common grid where images are padded patches of several shapes.")
    return features.tokens[:, features.prefix :].reshape(len(features.tokens), *features.grid, -1)


def _last_weights(kept: Mapping[str, Any]) -> jax.Array:
    """The last block's attention weights [B, heads, N, N]."""
    if "blocks" in kept:
        return kept["blocks"]["attention"]["weights"][0][-1]
    return kept[max(kept)]["attention"]["weights"][0]
