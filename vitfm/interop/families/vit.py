"""ViT (Dosovitskiy et al. 2021): transformers' `ViTModel`, `ViTForImageClassification`; timm's; big_vision's `.npz`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import big_vision, blocks, options, timm_vit
from vitfm.interop import timm_rows as timm
from vitfm.interop.weights import Row, Shape, token

UNUSED = (
    (r"^pooler\.", "ViTModel's pooler: vitfm's pooled output is the class token, as in the paper"),
    *big_vision.UNUSED,
)

_CLASSES = ("ViTModel", "ViTForImageClassification")


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    options.expect(config, qkv_bias=True)
    model = {
        "name": "vit",
        **options.sizes(config),
        "pool": "cls",
        "class_position": True,
        "position_resize": "bicubic",
        "activation": options.activation(config.get("hidden_act", "gelu")),
        "epsilon": config.get("layer_norm_eps", 1e-12),
    }
    return options.objective(config, model, *_CLASSES)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free = (*options.SIZES, "activation", "epsilon", "class_position", "position_resize")
    model = options.only(objective["model"], free, pool="cls")
    return {
        "model_type": "vit",
        **options.their_sizes(model),
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"],
        **options.classes(objective, num_classes, *_CLASSES),
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    model, classifies = options.complete(objective["model"]), objective["name"] == "supervised"
    prefix = "vit." if classifies else ""
    return [
        ("params/encoder/class_token", f"{prefix}embeddings.cls_token", token),
        *blocks.position("params/encoder", f"{prefix}embeddings.position_embeddings", model, axes=3),
        *blocks.stem("params/encoder/stem/patch", f"{prefix}embeddings.patch_embeddings.projection", model),
        *blocks.transformer("params/encoder/transformer", f"{prefix}layers", model["depth"], blocks.TRANSFORMERS),
        *blocks.norm("params/encoder/transformer/norm", f"{prefix}layernorm"),
        *(blocks.dense("params/head/logits", "classifier") if classifies else []),
    ]


# timm. A name like "vit_base_patch16_clip_224" stands for arguments, which `model_args` override.

_HEADS = {"tiny": 3, "small": 6, "medium": 8, "base": 12, "large": 16, "huge": 16, "giant": 16, "gigantic": 16}
_NAME = re.compile(rf"vit_({'|'.join(_HEADS)})_patch(\d+)(?:_(gap|clip|clip_quickgelu))?_(\d+)")
_VARIANTS = {
    None: {},
    "gap": {"global_pool": "avg"},
    "clip": {"epsilon": 1e-5},
    "clip_quickgelu": {"epsilon": 1e-5, "act_layer": "quick_gelu"},
}
_ARCHITECTURES = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}  # By the epsilon they come with.


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(timm_vit.architecture(config))
    if name is None:
        raise timm_vit.unknown(config, "ViT")
    heads = 16 if (name[1], name[3]) == ("base", "gap") else _HEADS[name[1]]
    named = {"epsilon": 1e-6, "num_heads": heads, "img_size": int(name[4]), **_VARIANTS[name[3]]}
    return timm_vit.read(config, shapes, **named)


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json."""
    epsilon = options.complete(objective["model"])["epsilon"]
    if epsilon not in _ARCHITECTURES:
        raise ConfigError(
            f"config.objective.model.epsilon = {epsilon} can't be exported to timm, whose ViTs have one of "
            f"{', '.join(map(str, _ARCHITECTURES))}."
        )
    return timm_vit.write(objective, num_classes, _ARCHITECTURES[epsilon], epsilon=epsilon)


timm_rows = timm.rows

# big_vision.

big_vision_read, big_vision_rows = big_vision.read_vit, big_vision.vit
