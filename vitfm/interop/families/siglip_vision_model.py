"""SigLIP's image tower (Zhai et al. 2023, arXiv:2303.15343) by itself: transformers' `SiglipVisionModel`; timm's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from vitfm.interop import blocks, options, timm_vit, vit_rows
from vitfm.interop import timm_rows as timm
from vitfm.interop.weights import Row, Shape, flat, linear

_POOLS = {True: "map", False: "gap"}  # By their `vision_use_head`; without one they leave pooling to others.


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    return read_as("Siglip", encoder, config)


def read_as(kind: str, encoder: Callable[..., dict[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """The same for another tower: how transformers' classes begin, and the `encoder` of its family."""
    model = encoder(config) | {"pool": _POOLS[config.get("vision_use_head", True)]}
    return options.objective(config, model, f"{kind}VisionModel")


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
    return write_as("Siglip", written, objective)


def write_as(kind: str, written: Callable[..., dict[str, Any]], objective: Mapping[str, Any]) -> dict[str, Any]:
    """The same for another tower, by the `written` of its family."""
    if objective["name"] != "backbone":
        raise options.ConfigError(f"config.objective.name: transformers' {kind}VisionModel is a 'backbone' alone.")
    pool = objective["model"].get("pool", "gap")
    return {
        "model_type": f"{kind.lower()}_vision_model",
        **written(objective["model"], pool if pool in _POOLS.values() else "map"),
        "vision_use_head": pool == "map",
        "architectures": [f"{kind}VisionModel"],
    }


def written(spec: Mapping[str, Any], pool: str, position_resize: str = "bicubic") -> dict[str, Any]:
    """The inverse of `encoder`."""
    model = options.only(spec, (*options.SIZES, "activation", "epsilon"), pool=pool, position_resize=position_resize)
    return {
        **options.their_sizes(model),
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"],
    }


def rows(objective: Mapping[str, Any], prefix: str = "", encoder: str = "params/encoder") -> list[Row]:
    """transformers' names below `prefix`, ours below `encoder`."""
    model = options.complete(objective["model"])
    stem = blocks.stem(f"{encoder}/stem/patch", f"{prefix}embeddings.patch_embedding", model)
    return [*stem, *behind_stem(model, prefix, encoder)]


def behind_stem(model: Mapping[str, Any], prefix: str, encoder: str) -> list[Row]:
    """All rows but the stem's, of a model all of whose options are given."""
    return [
        *blocks.position(encoder, f"{prefix}embeddings.position_embedding.weight", model, axes=2),
        *vit_rows.transformer(f"{prefix}encoder.layers", blocks.TRANSFORMERS_CLIP, model, encoder),
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


# timm, which has GELU by tanh in some sizes only, where transformers has it in all.

_NAME = re.compile(r"vit_(base|large|so400m|giantopt)_patch(?:14|16|32)_siglip(_gap)?_(\d+)")
_HEADS = {"base": 12, "large": 16, "so400m": 16, "giantopt": 16}
_TANH = re.compile(r"base_patch32|large_patch16_siglip(_gap)?_512|so400m_patch16|giantopt")


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(timm_vit.architecture(config))
    if name is None:
        raise timm_vit.unknown(config, "SigLIP")
    named = {"num_heads": _HEADS[name[1]], "img_size": int(name[3]), "global_pool": "avg" if name[2] else "map"}
    named["act_layer"] = "gelu_tanh" if _TANH.search(name[0]) else "gelu"
    return timm_vit.read(config, shapes, epsilon=1e-6, **named)


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json."""
    gap = "" if objective["model"].get("pool") == "map" else "_gap"
    return timm_vit.write(objective, num_classes, f"vit_base_patch16_siglip{gap}_224", epsilon=1e-6)


timm_rows = timm.rows
