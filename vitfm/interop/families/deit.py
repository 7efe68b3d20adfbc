"""DeiT (Touvron et al. 2021): transformers' `DeiTModel` and its classifiers with one head and with two; timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.interop import blocks, options, timm_vit, vit_rows
from vitfm.interop import timm_rows as timm
from vitfm.interop.weights import Row, Shape

UNUSED = ((r"^pooler\.", "DeiTModel's pooler: vitfm's pooled output is the class token, as in the paper"),)

_CLASSIFIERS = {"cls": "DeiTForImageClassification", "cls_dist": "DeiTForImageClassificationWithTeacher"}
_FIXED = {"distillation_token": True, "position_resize": "bicubic"}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    pool = "cls_dist" if (config.get("architectures") or [None])[0] == _CLASSIFIERS["cls_dist"] else "cls"
    model = {
        "name": "vit",
        **options.sizes(config),
        **_FIXED,
        "pool": pool,
        "class_position": True,
        "activation": options.activation(config.get("hidden_act", "gelu")),
        "epsilon": config.get("layer_norm_eps", 1e-12),
        "qkv_bias": "qkv" if config.get("qkv_bias", True) else "",
    }
    return options.objective(config, model, "DeiTModel", _CLASSIFIERS[pool])


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free = (*options.SIZES, "activation", "epsilon", "class_position", "qkv_bias")
    pool = "cls_dist" if (objective["name"], objective["model"].get("pool")) == ("supervised", "cls_dist") else "cls"
    model = options.only(objective["model"], free, **_FIXED, pool=pool)
    return {
        "model_type": "deit",
        **options.their_sizes(model),
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"],
        "qkv_bias": bool(model["qkv_bias"]),
        **options.classes(objective, num_classes, "DeiTModel", _CLASSIFIERS[pool]),
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
        *(_heads(model["pool"]) if classifies else []),
    ]


def _heads(pool: str) -> list[Row]:
    if pool == "cls":
        return blocks.dense("params/head/logits", "classifier")
    both = {"logits": "cls_classifier", "distillation": "distillation_classifier"}
    return [row for ours, theirs in both.items() for row in blocks.dense(f"params/head/{ours}", theirs)]


# timm. "deit3" (Touvron et al. 2022, arXiv:2204.07118) has layer scale, and no position of the class token.

_NAME = re.compile(r"deit(3)?_(tiny|small|medium|base|large|huge)(?:_distilled)?_patch\d+_(\d+)")
_HEADS = {"tiny": 3, "small": 6, "medium": 8, "base": 12, "large": 16, "huge": 16}


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(timm_vit.architecture(config))
    if name is None:
        raise timm_vit.unknown(config, "DeiT")
    third = {"no_embed_class": True, "init_values": 1e-6} if name[1] else {}
    named = {"num_heads": _HEADS[name[2]], "img_size": int(name[3]), **third}
    return timm_vit.read(config, shapes, epsilon=1e-6, **named)


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json; with a distillation token a classifier has two heads."""
    distilled = objective["model"].get("distillation_token", False)
    fixed = {"pool": "cls_dist" if objective["name"] == "supervised" else "cls"} if distilled else {}
    architecture = f"deit_base{'_distilled' if distilled else ''}_patch16_224"
    return timm_vit.write(objective, num_classes, architecture, epsilon=1e-6, distillation_token=distilled, **fixed)


timm_rows = timm.rows
