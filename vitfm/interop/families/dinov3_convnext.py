"""DINOv3's ConvNeXt (Siméoni et al. 2025, arXiv:2508.10104): transformers' `DINOv3ConvNextModel`; timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import options
from vitfm.interop.families import convnext
from vitfm.interop.weights import Row, Shape, flat, linear

_CLASS = "DINOv3ConvNextModel"
_NAMES: convnext.Names = {
    "stem": "model.stages.0.downsample_layers.0",
    "stem_norm": "model.stages.0.downsample_layers.1",
    "downsample_norm": "model.stages.{stage}.downsample_layers.0",
    "downsample": "model.stages.{stage}.downsample_layers.1",
    "block": "model.stages.{stage}.layers.{index}",
    "depthwise": "depthwise_conv",
    "norm": "layer_norm",
    "up": "pointwise_conv1",
    "down": "pointwise_conv2",
    "layer_scale": "gamma",
    "final": "layer_norm",
}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    options.expect(config, architectures=[_CLASS], patch_size=4)
    model = convnext.sizes({"layer_norm_eps": 1e-6, **config})
    epsilon = model.pop("final_epsilon")
    scale = config.get("layer_scale_init_value", 1e-6)
    return {"name": "backbone", "model": {**model, "epsilon": epsilon, "layer_scale": scale, "final_norm": "both"}}


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    if objective["name"] == "supervised":
        raise ConfigError("transformers has no DINOv3 ConvNeXt with a classifier: export its encoder alone.")
    free = ("image_size", "depths", "hidden_dims", "activation", "epsilon", "layer_scale")
    model = options.only(objective["model"], free, final_norm="both")
    if model["layer_scale"] is None:
        raise ConfigError("config.objective.model.layer_scale = None can't be exported: DINOv3's ConvNeXt has one.")
    theirs = convnext.their_sizes(model)
    del theirs["patch_size"], theirs["num_stages"]  # Always 4, and the length of the others.
    scale = {"layer_scale_init_value": model["layer_scale"]}
    return {"model_type": "dinov3_convnext", **theirs, **scale, "architectures": [_CLASS]}


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return convnext.network(options.complete(objective["model"]), _NAMES, flat, linear)


# timm, whose last norm is of the pooled output alone: ours is of the tokens, too, as in DINOv3's own code.


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    found = convnext.timm_read(config, shapes)
    return {**found, "model": {**found["model"], "final_norm": "both"}}


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json."""
    options.only(objective["model"], (*convnext.FREE, "epsilon", "layer_scale"), final_norm="both")
    return convnext.timm_write(_pooled(objective), num_classes)


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    return convnext.timm_rows(_pooled(objective))


def _pooled(objective: Mapping[str, Any]) -> dict[str, Any]:
    return {**objective, "model": {**objective["model"], "final_norm": "pooled"}}
