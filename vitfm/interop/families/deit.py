"""DeiT (Touvron et al. 2021): transformers' `DeiTModel` and `DeiTForImageClassification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.interop import blocks, options, vit_rows
from vitfm.interop.weights import Row

UNUSED = ((r"^pooler\.", "DeiTModel's pooler: vitfm's pooled output is the class token, as in the paper"),)

_CLASSES = ("DeiTModel", "DeiTForImageClassification")
_FIXED = {"pool": "cls", "distillation_token": True, "position_resize": "bicubic"}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    model = {
        "name": "vit",
        **options.sizes(config),
        **_FIXED,
        "class_position": True,
        "activation": options.activation(config.get("hidden_act", "gelu")),
        "epsilon": config.get("layer_norm_eps", 1e-12),
        "qkv_bias": "qkv" if config.get("qkv_bias", True) else "",
    }
    return options.objective(config, model, *_CLASSES)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free = (*options.SIZES, "activation", "epsilon", "class_position", "qkv_bias")
    model = options.only(objective["model"], free, **_FIXED)
    return {
        "model_type": "deit",
        **options.their_sizes(model),
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"],
        "qkv_bias": bool(model["qkv_bias"]),
        **options.classes(objective, num_classes, *_CLASSES),
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    model, classifies = options.complete(objective["model"]), objective["name"] == "supervised"
    prefix, encoder = "deit." if classifies else "", "params/encoder"
    embeddings = f"{prefix}embeddings"
    tokens = {
        "class_token": (f"{embeddings}.cls_token", vit_rows.token),
        "distillation_token": (f"{embeddings}.distillation_token", vit_rows.token),
    }
    return [
        *vit_rows.tokens(tokens, model),
        *vit_rows.position(f"{embeddings}.position_embeddings", ("class", "distillation"), model),
        *blocks.stem(f"{encoder}/stem/patch", f"{embeddings}.patch_embeddings.projection", model),
        *vit_rows.transformer(f"{prefix}layers", blocks.TRANSFORMERS, model),
        *vit_rows.norm(f"{encoder}/transformer/norm", f"{prefix}layernorm", model),
        *(blocks.dense("params/head/logits", "classifier") if classifies else []),
    ]
