"""SigLIP 2's image tower for any aspect ratio (Tschannen et al. 2025, arXiv:2502.14786): `Siglip2VisionModel`.

It takes padded patches, see `vitfm.models.naflex`. The towers of SigLIP 2's fixed resolutions are SigLIP's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.families import siglip_vision_model
from vitfm.interop.weights import Row

PATCHES = True  # Images reach it as padded patches.


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    return siglip_vision_model.read_as("Siglip2", encoder, config)


def encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """All but how it pools; the size in pixels is that of a square image with `num_patches`."""
    count = config.get("num_patches", 256)
    side = math.isqrt(count)
    if side * side != count:
        raise ConfigError(f"config.json: num_patches = {count} makes no square table of positions.")
    size = side * options.square(config.get("patch_size", 16), "patch_size")
    return {**siglip_vision_model.encoder({**config, "image_size": size}), "position_resize": "bilinear"}


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    return siglip_vision_model.write_as("Siglip2", written, objective)


def written(spec: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """The inverse of `encoder`."""
    config = siglip_vision_model.written(spec, pool, "bilinear")
    return {**config, "num_patches": (config.pop("image_size") // config["patch_size"]) ** 2}


def rows(objective: Mapping[str, Any], prefix: str = "", encoder: str = "params/encoder") -> list[Row]:
    """transformers' names below `prefix`, ours below `encoder`."""
    model = options.complete(objective["model"])
    stem = blocks.dense(f"{encoder}/stem/patch", f"{prefix}embeddings.patch_embedding", bias=model["stem_bias"])
    return [*stem, *siglip_vision_model.behind_stem(model, prefix, encoder)]
