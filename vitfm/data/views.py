"""Several views of one image: crops of one decoded image on the host, each with pixels of its own on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import augment as augmentation
from vitfm.data import image as images
from vitfm.data.inputs import Input

Batch = Mapping[str, Any]
_FIRST = 2**16  # A view's number among an example's keys; below are the draws of augmentation.


@dataclasses.dataclass(frozen=True)
class View:
    """Views of one name: `count` crops, and what makes each ready: one function for all of them, or one for each."""

    count: int
    cut: images.Cut
    train: tuple[Callable[[Batch, jax.Array], Batch], ...]


@dataclasses.dataclass(frozen=True)
class Views:
    """All views, in the order of their names, whatever the order in the recipe.

    Attributes:
      views: by name.
      beside: makes `image` ready where batches have one, too: (batch, keys [B]) -> batch, as `augmentation.make` gives.
    """

    views: Mapping[str, View]
    beside: Callable[[Batch, jax.Array], Batch] | None = None

    def draw(self, height: int, width: int, rng: np.random.Generator) -> dict[str, list[images.Drawn]]:
        """name -> what each of its views looks at in an image of this size."""
        drawn = lambda cut: (cut, cut.draw(height, width, rng))
        return {name: [drawn(view.cut) for _ in range(view.count)] for name, view in self.views.items()}

    def preprocess(self, batch: Batch, keys: jax.Array) -> Batch:
        """(batch, keys [B]) -> batch: `views`, name -> uint8 [B,V,h,w,C], become normalised float32 [B,V,h,w,3]."""
        batch = batch if self.beside is None else self.beside(batch, keys)  # Its draws are below `_FIRST`.
        return {**batch, "views": jax.vmap(self._train)(batch["views"], keys)}

    def _train(self, cuts: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """The views of one example, [V,h,w,C], each with a key of its own."""
        made, number = {}, _FIRST
        for name, view in self.views.items():
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, number + jnp.arange(view.count))
            parts = len(view.train)  # All views in one, or each by itself.
            split = zip(view.train, jnp.split(cuts[name], parts), jnp.split(keys, parts), strict=True)
            made[name] = jnp.concatenate([train({"image": part}, own)["image"] for train, part, own in split])
            number += view.count
        return made


def make(
    views: Mapping[str, Mapping[str, Any]],
    *,
    image_size: int,
    crop: Mapping[str, Any] | Literal["pad"] | None,
    augment: Mapping[str, Any],
    beside: Callable[[Batch, jax.Array], Batch] | None = None,
    spec: Input = Input(),
) -> Views:
    """The views of a recipe, by their names.

    Args:
      views: name -> options of `view`.
      image_size, crop, augment: of `data`, the defaults of each view.
      beside: of `Views`.
      spec: of the images.

    Raises:
      ConfigError: options that make no sense, or no view.
    """
    if not views:
        raise ConfigError("config.data.views = {} has no view; views=None makes one image.")
    defaults = {"image_size": image_size, "base_crop": crop, "base_augment": augment, "spec": spec}
    called = lambda name, path: config.call(view, views[name], where=path, path=path, **defaults)
    return Views({name: called(name, f"data.views.{name}") for name in sorted(views)}, beside)


def view(
    *,
    count: int = 1,
    size: int | None = None,
    crop: Mapping[str, Any] | Literal["pad"] | None = {},
    augment: Mapping[str, Any] | Sequence[Mapping[str, Any]] = {},
    image_size: int,
    base_crop: Mapping[str, Any] | Literal["pad"] | None,
    base_augment: Mapping[str, Any],
    spec: Input,
    path: str,
) -> View:
    """Views of one name.

    Args:
      count: V, how many.
      size: side in pixels; None is that of `data.image_size`.
      crop: what differs from `data.crop`; None resizes and takes the centre, "pad" shows all.
      augment: what differs from `data.augment`, or a list of that, one for each view.
      image_size, base_crop, base_augment, spec: of `data`.
      path: of these options in the recipe, for messages.
    """
    if count < 1:
        raise ConfigError(f"config.{path}.count = {count} must be at least 1.")
    size = image_size if size is None else size
    if size < 1:
        raise ConfigError(f"config.{path}.size = {size} must be at least 1.")
    several = not isinstance(augment, Mapping)
    if several and len(augment) != count:
        raise ConfigError(f"config.{path}.augment has {len(augment)} entries for count = {count} views.")
    for own in augment if several else (augment,):
        if {"mean", "std"} & own.keys():
            raise ConfigError(
                f"config.{path}.augment: mean and std belong to config.data.augment, for evaluation has the same."
            )
    one = lambda own, where: config.call(
        augmentation.make, {**base_augment, **own}, where=where, path=where, spec=spec
    )[0]
    if several:
        train = tuple(one(own, f"{path}.augment.{i}") for i, own in enumerate(augment))
    else:
        train = (one(augment, f"{path}.augment"),)
    if crop == {}:
        options = base_crop
    elif isinstance(crop, Mapping):
        options = {**(base_crop if isinstance(base_crop, Mapping) else {}), **crop}
    else:
        options = crop
    return View(count, images.cutter(size, options, path=f"{path}.crop", **spec.sampling), train)
