"""SigLIP (Zhai et al. 2023, arXiv:2303.15343): transformers' `SiglipForImageClassification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.families import siglip_vision_model
from vitfm.interop.weights import Row

UNUSED = ((r"^vision_model\.head\.", "attention pooling, in whose place the classifier takes the patches' mean"),)

_CLASS = "SiglipForImageClassification"


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    name = (config.get("architectures") or ["SiglipModel"])[0]
    if name != _CLASS:
        raise ConfigError(
            f"config.json: architectures = [{name!r}] is not supported; vitfm knows {_CLASS}, and SiglipVisionModel, "
            "the image tower by itself: save that with transformers."
        )
    model = siglip_vision_model.encoder(config.get("vision_config") or {}) | {"pool": "gap"}
    return options.objective(config, model, "SiglipModel", _CLASS)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    if objective["name"] != "supervised":
        raise ConfigError("config.objective.name: this format is a classifier's; export as siglip_vision_model.")
    return {
        "model_type": "siglip",
        "vision_config": {**siglip_vision_model.written(objective["model"], "gap"), "vision_use_head": False},
        **options.classes(objective, num_classes, "SiglipModel", _CLASS),
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return [
        *siglip_vision_model.rows(objective, "vision_model."),
        *blocks.dense("params/head/logits", "classifier"),
    ]
