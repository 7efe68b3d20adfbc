"""What objectives make of an encoder where a recipe does not say otherwise, for who takes it out of their runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.objectives import aim, beit, siglip, siglip2

DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # By objective; see their `make`.
    "mae": {"name": "vit", "position": "sincos", "pool": "cls"},
    "simmim": {"mask_token": True},
    "dinov2": {"pool": "cls", "mask_token": True},
    "aim": aim.PLAIN,
    "beit": beit.BIASED,
    "siglip": siglip.IMAGE,
    "siglip2": siglip2.IMAGE,
    "dvae": {"name": "dvae"},
}
