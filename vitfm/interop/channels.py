"""Models for images of other than three channels: trained on such, or trained on three and given others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitfm import tree as trees
from vitfm.config import ConfigError
from vitfm.interop import folder
from vitfm.models import resizing

Bands = Sequence[int | None]


def of(found: folder.Folder) -> int:
    """How many channels the images of a model of another library have."""
    if found.format == "big_vision":
        return next(shape[2] for name, shape in found.tensors.shapes.items() if name.endswith("embedding/kernel"))
    config = found.config.get("vision_config") or found.config
    own = config.get("num_channels") or config.get("input_channels")
    return own or (config.get("model_args") or {}).get("in_chans") or 3


def normalised(
    data: Mapping[str, Any], channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, Any]:
    """A recipe's data for `channels`, with means and deviations of its own or with those given.

    Raises:
      ConfigError: they are of another number of channels.
    """
    augment = {key: list(given or data["augment"][key]) for key, given in (("mean", mean), ("std", std))}
    for key, values in augment.items():
        if len(values) != channels:
            raise ConfigError(
                f"Images have {channels} channels, and {key} = {values} is of {len(values)}: give those of all "
                f"channels as image_{key} in {folder.PROCESSOR}, or as `{key}` (--{key}=...)."
            )
    return {**data, "augment": augment, **({"channels": channels} if channels != 3 else {})}


def for_bands(
    data: Mapping[str, Any], bands: Bands, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, Any]:
    """A recipe's data for images with `bands`, each normalised as the channel that it stands for.

    Raises:
      ConfigError: a band stands for a channel that there is not; or for the mean of all, of which none is known.
    """
    old = data["augment"]
    count = len(old["mean"])
    if not bands or any(band is not None and not 0 <= band < count for band in bands):
        raise ConfigError(
            f"bands = {list(bands)}: name one of the channels 0 to {count - 1}, or the mean, for each band."
        )
    if None in bands and (mean is None or std is None):
        raise ConfigError(
            f"bands = {list(bands)}: mean and standard deviation of what stands for the mean of all channels can't be "
            "known; give those of all bands, for values in [0, 1], as `mean` and `std` (--mean=... --std=...)."
        )
    of_bands = {key: [values[band] for band in bands if band is not None] for key, values in old.items()}
    plain = {key: value for key, value in data.items() if key != "channels"}
    return normalised({**plain, "augment": of_bands}, len(bands), mean, std)


def inflated(state: Any, like: Any, channels: int, bands: Bands) -> Any:
    """A state whose stem has the filters of `bands`, see `vitfm.models.stem.inflate`.

    Args:
      state: as it was trained.
      like: shapes as they are to be.
      channels: of the images that it was trained on.
      bands: for each channel now the one it stands for; None for the mean of all.

    Raises:
      ConfigError: another leaf depends on the channels, too.
    """
    rule = resizing.make(channels=channels, bands=bands, image_channels=len(bands))

    def one(path: Any, array: np.ndarray, wanted: Any) -> np.ndarray:
        name = trees.name(path)
        found = rule(name, array.shape, wanted.shape)
        if found is None or found[0] is None:
            if array.shape != wanted.shape:
                raise ConfigError(f"bands = {list(bands)}: {name} depends on the channels, too, and can't be inflated.")
            return array
        return np.asarray(found[0](array), array.dtype)

    return jax.tree_util.tree_map_with_path(one, state, like)


def written(theirs: dict[str, Any], channels: int) -> dict[str, Any]:
    """A configuration for images of so many channels.

    Raises:
      ConfigError: it is open_clip's, and they are not 3.
    """
    if channels == 3:
        return theirs
    if "model_cfg" in theirs:
        raise ConfigError(f"open_clip's images have 3 channels; those of this model have {channels}.")
    if "model_args" in theirs:
        return {**theirs, "model_args": {**theirs["model_args"], "in_chans": channels}}
    if "vision_config" in theirs:
        return {**theirs, "vision_config": {**theirs["vision_config"], "num_channels": channels}}
    return {**theirs, "input_channels" if "input_channels" in theirs else "num_channels": channels}
