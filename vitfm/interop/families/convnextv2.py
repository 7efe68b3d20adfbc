"""ConvNeXt V2 (Woo et al. 2023): `ConvNextV2Model`, `ConvNextV2ForImageClassification`; timm's `ConvNeXt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.interop import options
from vitfm.interop.families import convnext
from vitfm.interop.families.convnext import timm_read, timm_rows, timm_write
from vitfm.interop.weights import Row

__all__ = ["read", "rows", "timm_read", "timm_rows", "timm_write", "write"]

_CLASSES = ("ConvNextV2Model", "ConvNextV2ForImageClassification")


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    model = {**convnext.sizes(config), "grn": True, "layer_scale": None}
    return options.objective(config, model, *_CLASSES)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    model = options.only(objective["model"], convnext.FREE, grn=True, layer_scale=None)
    classes = options.classes(objective, num_classes, *_CLASSES)
    return {"model_type": "convnextv2", **convnext.their_sizes(model), **classes}


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return convnext.transformers_rows(objective, "convnextv2")
