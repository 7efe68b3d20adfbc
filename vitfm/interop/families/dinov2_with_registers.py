"""DINOv2 with registers (Darcet et al. 2024): transformers' `Dinov2WithRegistersModel`, its classifier; timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.interop import options
from vitfm.interop.families import dinov2
from vitfm.interop.weights import Row

_CLASSES = ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification")


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    model = {**dinov2.encoder(config), "mask_token": True, "registers": config.get("num_register_tokens", 4)}
    return dinov2.objective(config, model, *_CLASSES)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free, pool = (*dinov2.FREE, "registers"), dinov2.pooled(objective)
    model = options.only(objective["model"], free, pool=pool, mask_token=True)
    return {
        "model_type": "dinov2_with_registers",
        **dinov2.written(model),
        "num_register_tokens": model["registers"],
        **options.classes(objective, num_classes, *_CLASSES),
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return dinov2.rows(objective, "dinov2_with_registers")


timm_read, timm_write, timm_rows = dinov2.timm_read, dinov2.timm_write, dinov2.timm_rows
