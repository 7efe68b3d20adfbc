"""BEiT (Bao et al. 2022): transformers' `BeitModel` and `BeitForImageClassification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options, vit_rows
from vitfm.interop.weights import Row, same

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
