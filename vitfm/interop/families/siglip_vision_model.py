"""SigLIP's image tower (Zhai et al. 2023, arXiv:2303.15343) by itself: transformers' `SiglipVisionModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.interop import blocks, options, vit_rows
from vitfm.interop.weights import Row, flat, linear

_CLASSES = ("SiglipVisionModel", "SiglipForImageClassification")
_POOLS = {True: "map", False: "gap"}  # By their `vision_use_head`; without one they leave pooling to others.


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    model = encoder(config) | {"pool": _POOLS[config.get("vision_use_head", True)]}
    return options.objective(config, model, *_CLASSES)


def encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """All but how it pools."""
    return {
        "name": "vit",
        **options.sizes(config),
        "position_resize": "bicubic",
        "activation": options.activation(config.get("hidden_act", "gelu_pytorch_tanh")),
        "epsilon": config.get("layer_norm_eps", 1e-6),
    }


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    if objective["name"] != "backbone":
        raise options.ConfigError("config.objective.name: transformers' SiglipVisionModel is a 'backbone' alone.")
    pool = objective["model"].get("pool", "gap")
    return {
        "model_type": "siglip_vision_model",
        **written(objective["model"], pool if pool in _POOLS.values() else "map"),
        "vision_use_head": pool == "map",
        **options.classes(objective, num_classes, *_CLASSES),
    }


def written(spec: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """The inverse of `encoder`."""
    model = options.only(spec, (*options.SIZES, "activation", "epsilon"), pool=pool, position_resize="bicubic")
    return {
        **options.their_sizes(model),
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"],
    }


def rows(objective: Mapping[str, Any], prefix: str = "") -> list[Row]:
    """transformers' names."""
    model, encoder = options.complete(objective["model"]), "params/encoder"
    return [
        *vit_rows.position(f"{prefix}embeddings.position_embedding.weight", (), model, axes=2),
        *blocks.stem(f"{encoder}/stem/patch", f"{prefix}embeddings.patch_embedding", model),
        *vit_rows.transformer(f"{prefix}encoder.layers", blocks.TRANSFORMERS_CLIP, model),
        *vit_rows.norm(f"{encoder}/transformer/norm", f"{prefix}post_layernorm", model),
        *(_pooler(f"{encoder}/pooler", f"{prefix}head", model) if model["pool"] == "map" else []),
    ]


def _pooler(ours: str, theirs: str, model: Mapping[str, Any]) -> list[Row]:
    return [
        (f"{ours}/query_token", f"{theirs}.probe", vit_rows.token),
        (f"{ours}/qkv/kernel", f"{theirs}.attention.in_proj_weight", linear),
        (f"{ours}/qkv/bias", f"{theirs}.attention.in_proj_bias", flat),
        *blocks.dense(f"{ours}/out", f"{theirs}.attention.out_proj"),
        *vit_rows.norm(f"{ours}/norm", f"{theirs}.layernorm", model),
        *blocks.dense(f"{ours}/mlp/up", f"{theirs}.mlp.fc1"),
        *blocks.dense(f"{ours}/mlp/down", f"{theirs}.mlp.fc2"),
    ]
