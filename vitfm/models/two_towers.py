"""An image tower and a text tower whose embeddings lie in one space: what every image-text objective is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.models import probes


def unit(x: jax.Array) -> jax.Array:
    """Rows of L2 norm 1, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


@dataclasses.dataclass(frozen=True)
class TwoTowers:
    """Pure functions of parameters {"image": ..., "text": ...}, each {"tower": ...} and its "projection", if any.

    Attributes:
      image, text: the towers, from `vitfm.models`.
      project: a linear map of each tower's pooled output into the common space; None where the towers end in it.
    """

    image: nn.Module
    text: nn.Module
    project: nn.Dense | None

    def init(self, key: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        """Parameters for `image` [B,H,W,C], `text` [B,T] and `text_mask` [B,T]."""
        keys = jax.random.split(key, 4)
        image = self.image.init(keys[0], jax.tree.map(lambda x: x[:1], batch["image"]))["params"]
        text = self.text.init(keys[1], batch["text"][:1], batch["text_mask"][:1])["params"]
        projected = lambda key, tower: (
            {} if self.project is None else {"projection": self.project.init(key, _zeros(tower))["params"]}
        )
        return {
            "image": {"tower": image, **projected(keys[2], self.image)},
            "text": {"tower": text, **projected(keys[3], self.text)},
        }

    def embed_image(self, params: Mapping[str, Any], image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B,H,W,C] -> float32 [B,D] of norm 1; with `keys` [B] as in training."""
        return self.read_image(params, image, keys)[0]

    def read_image(
        self, params: Mapping[str, Any], image: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, models.Features]:
        """The same, and what the image tower made of it: a caption looks at its tokens."""
        features = self.image.apply({"params": params["image"]["tower"]}, image, keys=keys)
        return unit(self._projected(params["image"], features.pooled)), features

    def embed_text(self, params: Mapping[str, Any], text: jax.Array, text_mask: jax.Array) -> jax.Array:
        """[B,T] and its mask -> float32 [B,D] of norm 1."""
        features = self.text.apply({"params": params["text"]["tower"]}, text, text_mask)
        return unit(self._projected(params["text"], features.pooled))

    def embed(
        self, params: Mapping[str, Any], extra: Any, batch: Mapping[str, jax.Array], key: jax.Array, step: jax.Array
    ) -> dict[str, jax.Array]:
        """The `embed` of an objective: both embeddings of a batch."""
        return {
            "image": self.embed_image(params, batch["image"], key),
            "text": self.embed_text(params, batch["text"], batch["text_mask"]),
        }

    def predictions(self) -> dict[str, Callable[..., jax.Array]]:
        """Predict functions: those of the image tower, with both embeddings in the common space."""
        joint = {"embed_image": self.embed_image, "embed_text": self.embed_text}
        return {**probes.predictions(self.image, lambda params: params["image"]["tower"]), **joint}

    def _projected(self, params: Mapping[str, Any], pooled: jax.Array) -> jax.Array:
        return pooled if self.project is None else self.project.apply({"params": params["projection"]}, pooled)


def towers(
    image: Mapping[str, Any], text: Mapping[str, Any], embed_dim: int | None, data: Any, dtype: jnp.dtype
) -> TwoTowers:
    """The towers of an objective.

    Args:
      image: the image tower: a `vitfm.models` name and its options.
      text: the text tower likewise; its vocabulary and length come from the tokenizer.
      embed_dim: width of the common space, into which both are projected without biases. None takes the image tower's
        output as it is; our own text tower then ends in a linear map to its width, unless told otherwise.
      data: facts about the batches: `image_size`, `vocab_size`, `text_length`.
      dtype: compute dtype.

    Raises:
      ConfigError: without a projection the towers are not equally wide.
    """
    image = {"image_size": data.image_size, **image}
    lengths = {"vocab_size": data.vocab_size, "length": data.text_length}
    image_tower = models.make(image, where="objective.image", dtype=dtype)
    if embed_dim is None and text.get("name") == "text":
        text = {"projection_dim": image_tower.hidden_dim, **text}
    text_tower = models.make(text, where="objective.text", **lengths, dtype=dtype)
    widths = image_tower.hidden_dim, text_tower.hidden_dim
    if embed_dim is None and widths[0] != widths[1]:
        raise ConfigError(
            f"config.objective.embed_dim = None makes no projections, and the towers are {widths[0]} and {widths[1]} "
            "wide: leave out config.objective.text.projection_dim, or set embed_dim."
        )
    project = None
    if embed_dim is not None:
        project = nn.Dense(embed_dim, use_bias=False, dtype=dtype, kernel_init=nn.initializers.lecun_normal())
    return TwoTowers(image_tower, text_tower, project)


def _zeros(tower: nn.Module) -> jax.Array:
    return jnp.zeros((1, tower.hidden_dim))
