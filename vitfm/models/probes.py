"""What an image encoder offers to evaluators: pure functions of parameters and preprocessed images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features, statistics
from vitfm.models.vision_transformer import OF_CLASS, ViT

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
      `patches`: likewise -> float32 [B,h,w,D], the patches after the last block, on their grid; with `blocks`, an int,
        the mean of what the last so many blocks, at most all, give: of a ViT before its final norm, as AIM is probed
        (`AverageLayers` of github.com/apple/ml-aim), of other encoders as `Features.layers` has it.
      `attention`: likewise -> float32 [B,heads,Q,h,w], how much what is pooled looks at each patch in the last block:
        the class token, Q = 1, or each of the patches, Q = hw, where it is their mean or an attention over them. Of
        ViTs whose blocks see the whole image.
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
        queries = slice(0, 1) if tower.pool in OF_CLASS else slice(found.prefix, None)
        rows = weights[:, :, queries, found.prefix :]
        return rows.reshape(*rows.shape[:3], *found.grid).astype(jnp.float32)

    def patches(params: Mapping[str, Any], image: jax.Array, *, blocks: int | None = None) -> jax.Array:
        variables = statistics.variables(encoder(params))
        if blocks is None:
            return on_grid(tower.apply(variables, image)).astype(jnp.float32)
        found = _without_norm(tower).apply(variables, image, last=min(blocks, tower.depth))
        mean = sum(layer.astype(jnp.float32) for layer in found.layers) / len(found.layers)
        return on_grid(found.replace(tokens=mean))

    offered = {"embed_image": embed_image, "features": features, "patches": patches}
    whole = isinstance(tower, ViT) and tower.transformer.window is None
    return offered | ({"attention": attention} if whole else {})


def on_grid(features: Features) -> jax.Array:
    """The patches [B,h,w,D], without the special tokens.

    Raises:
      ConfigError: each image has a grid of its own.
    """
    if not features.grid:
        raise ConfigError("Patches have no common grid where images are padded patches of several shapes.")
    return features.tokens[:, features.prefix :].reshape(len(features.tokens), *features.grid, -1)


def _without_norm(tower: nn.Module) -> nn.Module:
    """The encoder with its blocks' outputs as they are, where it is a ViT; the same parameters, of which one idles."""
    if not isinstance(tower, ViT):
        return tower
    return tower.clone(transformer=tower.transformer.clone(final_norm=False))


def _last_weights(kept: Mapping[str, Any]) -> jax.Array:
    """The last block's attention weights [B, heads, N, N]."""
    if "blocks" in kept:
        return kept["blocks"]["attention"]["weights"][0][-1]
    return kept[max(kept)]["attention"]["weights"][0]
