"""DINOv2 (Oquab et al. 2024): transformers' `Dinov2Model` and `Dinov2ForImageClassification`; timm's."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from vitfm.interop import blocks, options, timm_vit, vit_rows
from vitfm.interop import timm_rows as timm
from vitfm.interop.weights import Row, Shape

_CLASSES = ("Dinov2Model", "Dinov2ForImageClassification")
NAMES: blocks.Names = {
    "attention_norm": "norm1",
    "attention/qkv": blocks.QUERY_KEY_VALUE,
    "attention/out": "attention.o_proj",
    "attention_scale": "layer_scale1.lambda1",
    "mlp_norm": "norm2",
    "mlp_scale": "layer_scale2.lambda1",
}
PLAIN: blocks.Names = {"mlp/up": "mlp.fc1", "mlp/down": "mlp.fc2"}
GATED: blocks.Names = {f"mlp/{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")}
FREE = (*options.SIZES, "epsilon", "activation", "gated_mlp", "layer_scale", "qkv_bias", "class_position")


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    model = {**encoder(config, patch_size=14), "mask_token": config.get("use_mask_token", True)}
    return objective(config, {**model, "position_resize": "bicubic"}, *_CLASSES)


def encoder(config: Mapping[str, Any], **defaults: int) -> dict[str, Any]:
    """What DINOv2 has with and without registers."""
    sizes = options.sizes(config, **defaults)
    width, gated = sizes["hidden_dim"], config.get("use_swiglu_ffn", False)
    hidden = int(width * config.get("mlp_ratio", 4))
    return {
        "name": "vit",
        **sizes,
        "mlp_dim": _two_thirds(hidden) if gated else hidden,
        "gated_mlp": gated,
        "activation": "silu" if gated else options.activation(config.get("hidden_act", "gelu")),
        "class_position": True,
        "layer_scale": config.get("layerscale_value", 1.0),
        "qkv_bias": "qkv" if config.get("qkv_bias", True) else "",
        "epsilon": config.get("layer_norm_eps", 1e-6),
    }


def objective(config: Mapping[str, Any], model: Mapping[str, Any], *classes: str) -> dict[str, Any]:
    """With the classifier on the class token and the patches' mean, where there is one."""
    found = options.objective(config, model, *classes)
    found["model"]["pool"] = "cls_gap" if found["name"] == "supervised" else "cls"
    return found


def _two_thirds(hidden: int) -> int:
    """The width of a gated MLP with as many parameters, in whole eights."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free, fixed = (*FREE, "mask_token"), {"position_resize": "bicubic", "pool": pooled(objective)}
    model = options.only(objective["model"], free, **fixed)
    return {
        "model_type": "dinov2",
        **written(model),
        "use_mask_token": model["mask_token"],
        **options.classes(objective, num_classes, *_CLASSES),
    }


def pooled(objective: Mapping[str, Any]) -> str:
    """How this objective must pool to be one of transformers' classes."""
    return "cls_gap" if objective["name"] == "supervised" else "cls"


def written(model: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `encoder`."""
    theirs = options.their_sizes(model)
    hidden = theirs.pop("intermediate_size")
    ratios = (ratio for ratio in range(1, 17) if width_of(ratio, model) == hidden)
    ratio = next(ratios, None)
    if ratio is None or model["layer_scale"] is None or (model["gated_mlp"] and model["activation"] != "silu"):
        raise options.ConfigError(
            f"config.objective.model: DINOv2 has layer scales and MLPs of a whole multiple of the width, or two thirds "
            f"of one with gated_mlp and activation = 'silu'; this has layer_scale = {model['layer_scale']}, mlp_dim = "
            f"{hidden}, gated_mlp = {model['gated_mlp']}, activation = {model['activation']!r}."
        )
    return {
        **theirs,
        "mlp_ratio": ratio,
        "use_swiglu_ffn": model["gated_mlp"],
        "hidden_act": "gelu" if model["gated_mlp"] else options.their_activation(model["activation"]),
        "layerscale_value": model["layer_scale"],
        "qkv_bias": bool(model["qkv_bias"]),
        "layer_norm_eps": model["epsilon"],
    }


def width_of(ratio: int, model: Mapping[str, Any]) -> int:
    """Of the MLP."""
    hidden = ratio * model["hidden_dim"]
    return _two_thirds(hidden) if model["gated_mlp"] else hidden


def rows(objective: Mapping[str, Any], prefix: str = "dinov2") -> list[Row]:
    """transformers' names."""
    model, classifies = options.complete(objective["model"]), objective["name"] == "supervised"
    prefix = f"{prefix}." if classifies else ""
    embeddings, encoder = f"{prefix}embeddings", "params/encoder"
    tokens = {
        "class_token": (f"{embeddings}.cls_token", vit_rows.token),
        "registers": (f"{embeddings}.register_tokens", vit_rows.registers),
        "mask_token": (f"{embeddings}.mask_token", vit_rows.flat_token),
    }
    names = {**NAMES, **(GATED if model["gated_mlp"] else PLAIN)}
    return [
        *vit_rows.tokens(tokens, model),
        *vit_rows.position(f"{embeddings}.position_embeddings", ("class",), model),
        *blocks.stem(f"{encoder}/stem/patch", f"{embeddings}.patch_embeddings.projection", model),
        *vit_rows.transformer(f"{prefix}encoder.layer", names, model),
        *vit_rows.norm(f"{encoder}/transformer/norm", f"{prefix}layernorm", model),
        *(blocks.dense("params/head/logits", "classifier") if classifies else []),
    ]


# timm, with and without registers.

_NAME = re.compile(r"vit_(small|base|large|giant)_patch14(_reg4)?_dinov2")
_HEADS = {"small": 6, "base": 12, "large": 16, "giant": 24}


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(timm_vit.architecture(config))
    if name is None:
        raise timm_vit.unknown(config, "DINOv2")
    activation = {"act_layer": "silu"} if name[1] == "giant" else {}
    named = {"num_heads": _HEADS[name[1]], "no_embed_class": bool(name[2]), **activation}
    return timm_vit.read(config, shapes, epsilon=1e-6, **named)


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json."""
    spec = objective["model"]
    gated, registers = spec.get("gated_mlp", False), "_reg4" if spec.get("registers") else ""
    fixed = {"gated_mlp": True, "activation": "silu"} if gated else {}
    architecture = f"vit_{'giant' if gated else 'small'}_patch14{registers}_dinov2"
    return timm_vit.write(objective, num_classes, architecture, epsilon=1e-6, packed=True, **fixed)


timm_rows = functools.partial(timm.rows, packed=True)
