"""AIMv2 (Fini et al. 2024, arXiv:2411.14402): transformers' `Aimv2VisionModel`; timm's, without its pooling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options, timm_vit, vit_rows
from vitfm.interop import timm_rows as timm
from vitfm.interop.weights import Row, Shape

_CLASSES = ("Aimv2VisionModel", "Aimv2ForImageClassification")  # The second is not in transformers.
_NAMES: blocks.Names = {
    "attention_norm": "rms_norm1",
    "attention/qkv": blocks.QUERY_KEY_VALUE,
    "attention/out": "attention.out_proj",
    "mlp_norm": "rms_norm2",
    **{f"mlp/{x}": f"ffn.{x}_proj" for x in ("gate", "up", "down")},
}
_FIXED = {"norm": "rms", "stem_norm": True, "gated_mlp": True}
_POOLS = {True: "aim", False: "gap"}  # By their `use_head`; without one they leave pooling to others.
_POSITIONS = {True: "sincos", False: "learned"}  # By their `is_native`.
_DEFAULTS = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "intermediate_size": 2816}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    biased = config.get("qkv_bias", False)
    model = {
        "name": "vit",
        **options.sizes(config, **_DEFAULTS, patch_size=14),
        **_FIXED,
        "pool": _POOLS[config.get("use_head", True)],
        "position": _POSITIONS[config.get("is_native", False)],
        "qkv_bias": "qkv" if biased else "",
        "out_bias": biased,
        "mlp_bias": config.get("mlp_bias", False),
        "activation": options.activation(config.get("hidden_act", "silu")),
        "epsilon": config.get("rms_norm_eps", 1e-5),
    }
    return options.objective(config, model, *_CLASSES)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free = (*options.SIZES, "activation", "epsilon", "pool", "position", "qkv_bias", "out_bias", "mlp_bias")
    model = options.only(objective["model"], free, **_FIXED)
    biased = {"qkv": True, "": False}.get(model["qkv_bias"])
    fits = objective["name"] == "backbone" and model["pool"] in _POOLS.values() and biased is model["out_bias"]
    if not fits or model["position"] not in _POSITIONS.values():
        raise ConfigError(
            "config.objective: transformers' AIMv2 is a backbone with pool = 'aim' or 'gap', position = 'learned' or "
            "'sincos', and biases in all of its attention's linear maps or in none."
        )
    return {
        "model_type": "aimv2_vision_model",
        **options.their_sizes(model),
        "use_head": model["pool"] == "aim",
        "is_native": model["position"] == "sincos",
        "qkv_bias": biased,
        "mlp_bias": model["mlp_bias"],
        "hidden_act": options.their_activation(model["activation"]),
        "rms_norm_eps": model["epsilon"],
        **options.classes(objective, num_classes, *_CLASSES),
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    model, encoder = options.complete(objective["model"]), "params/encoder"
    learned, pooled = model["position"] == "learned", model["pool"] == "aim"
    return [
        *blocks.stem(f"{encoder}/stem/patch", "embeddings.patch_embed", model),
        *vit_rows.norm(f"{encoder}/stem_norm", "embeddings.rms_norm", model),
        *(vit_rows.position("embeddings.position_embedding.weight", (), model, axes=2) if learned else []),
        *vit_rows.transformer("encoder.layers", _NAMES, model),
        *vit_rows.norm(f"{encoder}/transformer/norm", "rms_norm", model),
        *(_pooler(f"{encoder}/pooler", "head", model) if pooled else []),
    ]


def _pooler(ours: str, theirs: str, model: Mapping[str, Any]) -> list[Row]:
    return [
        (f"{ours}/query_token", f"{theirs}.cls_token", vit_rows.token),
        *blocks.dense(f"{ours}/kv", (f"{theirs}.k_proj", f"{theirs}.v_proj"), bias=bool(model["qkv_bias"])),
        *blocks.dense(f"{ours}/out", f"{theirs}.output_proj"),
    ]


# timm.

_NAME = re.compile(r"aimv2_(large|huge|1b|3b)_patch14_(\d+)")
_HEADS = {"large": 8, "huge": 12, "1b": 16, "3b": 24}


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(timm_vit.architecture(config))
    if name is None:
        raise timm_vit.unknown(config, "AIMv2")
    named = {"num_heads": _HEADS[name[1]], "img_size": int(name[2]), "global_pool": "avg", "act_layer": "silu"}
    return timm_vit.read(config, shapes, epsilon=1e-5, **named)


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json."""
    return timm_vit.write(objective, num_classes, "aimv2_large_patch14_224", epsilon=1e-5, **_FIXED)


timm_rows = timm.rows
