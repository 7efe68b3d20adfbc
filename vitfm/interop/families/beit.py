"""BEiT (Bao et al. 2022): transformers' `BeitModel` and `BeitForImageClassification`; timm's `Beit`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options, timm_vit, vit_rows
from vitfm.interop import timm_rows as timm
from vitfm.interop.weights import Row, Shape, same

UNUSED = ((r"relative_position_index$", "an index that follows from the image's size"),)

_CLASSES = ("BeitModel", "BeitForImageClassification")
_NAMES: blocks.Names = {
    **blocks.TRANSFORMERS,
    "attention_scale": "lambda_1",
    "mlp_scale": "lambda_2",
    "relative_position/table": "relative_position_bias.relative_position_bias_table",
}
_FIXED = {"class_token": True, "qkv_bias": "qv", "position_resize": "bicubic"}
_TOKENS = {"class_token": "cls_token", "mask_token": "mask_token"}
_RELATIVE = {(False, False): None, (True, False): "block", (False, True): "shared"}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    absolute, mean = config.get("use_absolute_position_embeddings", False), config.get("use_mean_pooling", True)
    keys = ("use_relative_position_bias", "use_shared_relative_position_bias")
    relative = tuple(config.get(key, False) for key in keys)
    if relative not in _RELATIVE:
        raise ConfigError(f"config.json: {keys[0]} and {keys[1]} at once are not supported.")
    model = {
        "name": "vit",
        **options.sizes(config),
        **_FIXED,
        **_pooling(mean),
        "position": "learned" if absolute else "none",
        "class_position": absolute,
        "relative_position": _RELATIVE[relative],
        "mask_token": config.get("use_mask_token", False),
        "layer_scale": config.get("layer_scale_init_value", 0.1) or None,
        "activation": options.activation(config.get("hidden_act", "gelu")),
        "epsilon": config.get("layer_norm_eps", 1e-12),
    }
    return options.objective(config, model, *_CLASSES)


def _pooling(mean: bool) -> dict[str, Any]:
    """The normed mean of the patches, or the class token after a last norm of all."""
    return {"pool": "gap" if mean else "cls", "pool_norm": mean, "final_norm": not mean}


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free = (*options.SIZES, "activation", "epsilon", "position", "class_position", "relative_position", "mask_token")
    mean = objective["model"].get("pool") == "gap"
    model = options.only(objective["model"], (*free, "layer_scale"), **_FIXED, **_pooling(mean))
    if model["position"] not in ("learned", "none"):
        raise ConfigError(f"config.objective.model.position = {model['position']!r} can't be exported as BEiT.")
    return {
        "model_type": "beit",
        **options.their_sizes(model),
        "use_mask_token": model["mask_token"],
        "use_absolute_position_embeddings": model["position"] == "learned",
        "use_relative_position_bias": model["relative_position"] == "block",
        "use_shared_relative_position_bias": model["relative_position"] == "shared",
        "use_mean_pooling": mean,
        "layer_scale_init_value": model["layer_scale"] or 0.0,
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"],
        **options.classes(objective, num_classes, *_CLASSES),
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    model, classifies = options.complete(objective["model"]), objective["name"] == "supervised"
    prefix, encoder = "beit." if classifies else "", "params/encoder"
    embeddings = f"{prefix}embeddings"
    tokens = {name: (f"{embeddings}.{theirs}", vit_rows.token) for name, theirs in _TOKENS.items()}
    table = f"{prefix}shared_position_bias.relative_position_bias_table"
    learned, shared = model["position"] == "learned", model["relative_position"] == "shared"
    norm = ("pool_norm", "pooler.layernorm") if model["pool_norm"] else ("transformer/norm", "layernorm")
    return [
        *vit_rows.tokens(tokens, model),
        *(vit_rows.position(f"{embeddings}.position_embeddings", ("class",), model) if learned else []),
        *([(f"{encoder}/transformer/relative_position/table", table, same)] if shared else []),
        *blocks.stem(f"{encoder}/stem/patch", f"{embeddings}.patch_embeddings.projection", model),
        *vit_rows.transformer(f"{prefix}layers", _NAMES, model),
        *vit_rows.norm(f"{encoder}/{norm[0]}", f"{prefix}{norm[1]}", model),
        *(blocks.dense("params/head/logits", "classifier") if classifies else []),
    ]


# timm.

_NAME = re.compile(r"beit(?:v2)?_(base|large)_patch16_(\d+)")
_HEADS = {"base": 12, "large": 16}
_TIMM: blocks.Names = {
    **blocks.TIMM,
    "attention_scale": "gamma_1",
    "mlp_scale": "gamma_2",
    "relative_position/table": "attn.relative_position_bias_table",
}
_BLOCK, _SHARED = "blocks.0.attn.relative_position_bias_table", "rel_pos_bias.relative_position_bias_table"
_KNOWN = ("img_size", "num_heads", "use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias", "use_fc_norm")
_KNOWN += ("global_pool", "head_init_scale", *timm_vit.IDLE)


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(timm_vit.architecture(config))
    if name is None:
        raise timm_vit.unknown(config, "BEiT")
    named = {"num_heads": _HEADS[name[1]], "img_size": int(name[2]), "global_pool": "avg"}
    args = timm_vit.arguments(config, named, _KNOWN, {"swiglu_mlp": False, "scale_mlp": False})
    block, shared, absolute = (key in shapes for key in (_BLOCK, _SHARED, "pos_embed"))
    if (block, shared) not in _RELATIVE:
        raise ConfigError("config.json: use_rel_pos_bias and use_shared_rel_pos_bias at once are not supported.")
    model = timm_vit.common(args, shapes) | {
        "image_size": options.square(args["img_size"], "model_args.img_size"),
        "position": "learned" if absolute else "none",
        "class_position": absolute,
        "relative_position": _RELATIVE[block, shared],
        "layer_scale": (args.get("init_values") or 0.1) if "blocks.0.gamma_1" in shapes else None,
        "qkv_bias": "qv" if "blocks.0.attn.q_bias" in shapes else "",
        "epsilon": 1e-6,
    }
    return timm_vit.objective(config, model)


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json."""
    free = (*options.SIZES, "pool", "pool_norm", "final_norm", "class_token", "position", "class_position")
    free += ("position_resize", "relative_position", "layer_scale", "qkv_bias")
    model = options.only(objective["model"], free, epsilon=1e-6)
    learned = model["position"] == "learned"
    timm_vit.refuse(
        model,
        pool=model["pool"] not in ("cls", "gap"),
        class_token=not timm_vit.has_class(model),
        pool_norm=model["pool_norm"] is model["final_norm"],
        position=model["position"] not in ("learned", "none"),
        class_position=model["class_position"] is not learned,
        qkv_bias=model["qkv_bias"] not in ("qv", ""),
    )
    args = {
        **timm_vit.their_sizes(model),
        "global_pool": timm_vit.their_pools()[model["pool"]],
        "use_fc_norm": model["pool_norm"],
        "use_abs_pos_emb": learned,
        "use_rel_pos_bias": model["relative_position"] == "block",
        "use_shared_rel_pos_bias": model["relative_position"] == "shared",
        "init_values": model["layer_scale"],
        "qkv_bias": bool(model["qkv_bias"]),
    }
    return timm_vit.their_config(objective, num_classes, "beit_base_patch16_224", args)


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    model = options.complete(objective["model"])
    shared: list[Row] = [("params/encoder/transformer/relative_position/table", _SHARED, same)]
    return [
        *(vit_rows.position("pos_embed", ("class",), model) if model["position"] == "learned" else []),
        *(shared if model["relative_position"] == "shared" else []),
        *timm.around(objective["name"], model, _TIMM),
    ]
