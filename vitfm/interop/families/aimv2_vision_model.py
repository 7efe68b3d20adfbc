"""AIMv2's image tower (Fini et al. 2024, arXiv:2411.14402): transformers' `Aimv2VisionModel`; timm's, without its
pooling. Beside a text tower it is `aimv2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options, timm_vit, vit_rows
from vitfm.interop import timm_rows as timm
from vitfm.interop.weights import Row, Shape

_CLASS = "Aimv2VisionModel"
NAMES: blocks.Names = {
    "attention_norm": "rms_norm1",
    "attention/qkv": blocks.QUERY_KEY_VALUE,
    "attention/out": "attention.out_proj",
    "mlp_norm": "rms_norm2",
    **{f"mlp/{x}": f"ffn.{x}_proj" for x in ("gate", "up", "down")},
}
BLOCKS = {"norm": "rms", "gated_mlp": True}  # What all have; in what else blocks differ is `STYLE`.
STYLE = ("activation", "epsilon", "qkv_bias", "out_bias", "mlp_bias")
_FIXED = {**BLOCKS, "stem_norm": True}
_POOLS = {True: "aim", False: "gap"}  # By their `use_head`; without one they leave pooling to others.
_POSITIONS = {True: "sincos", False: "learned"}  # By their `is_native`.
_DEFAULTS = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "intermediate_size": 2816}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    return options.objective(config, encoder(config), _CLASS)


def encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' configuration of the tower -> model."""
    return {
        "name": "vit",
        **options.sizes(config, **_DEFAULTS, patch_size=14),
        **style(config),
        "stem_norm": True,
        "pool": _POOLS[config.get("use_head", True)],
        "position": _POSITIONS[config.get("is_native", False)],
    }


def style(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' configuration of a tower -> how its blocks are built."""
    biased = config.get("qkv_bias", False)
    return {
        **BLOCKS,
        "qkv_bias": "qkv" if biased else "",
        "out_bias": biased,
        "mlp_bias": config.get("mlp_bias", False),
        "activation": options.activation(config.get("hidden_act", "silu")),
        "epsilon": config.get("rms_norm_eps", 1e-5),
    }


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    if objective["name"] != "backbone":
        raise ConfigError("config.objective.name: transformers' Aimv2VisionModel is a 'backbone' alone.")
    return {**written(objective["model"], "objective.model"), "architectures": [_CLASS]}


def written(spec: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of `encoder`; `where` the model stands in the recipe."""
    model = options.only(spec, (*options.SIZES, *STYLE, "pool", "position"), where=where, **_FIXED)
    if model["pool"] not in _POOLS.values() or model["position"] not in _POSITIONS.values():
        raise ConfigError(
            f"config.{where}: transformers' AIMv2 has pool = 'aim' or 'gap', and position = 'learned' or 'sincos'."
        )
    return {
        "model_type": "aimv2_vision_model",
        **options.their_sizes(model),
        "use_head": model["pool"] == "aim",
        "is_native": model["position"] == "sincos",
        **their_style(model, where),
    }


def their_style(model: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of `style`, of a model all of whose options are given.

    Raises:
      ConfigError: some of its attention's linear maps have biases.
    """
    biased = {"qkv": True, "": False}.get(model["qkv_bias"])
    if biased is not model["out_bias"]:
        raise ConfigError(
            f"config.{where}: transformers' AIMv2 has biases in all of its attention's linear maps or in none; here "
            f"qkv_bias = {model['qkv_bias']!r}, out_bias = {model['out_bias']}."
        )
    return {
        "qkv_bias": biased,
        "mlp_bias": model["mlp_bias"],
        "hidden_act": options.their_activation(model["activation"]),
        "rms_norm_eps": model["epsilon"],
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return tower_rows(objective["model"])


def tower_rows(spec: Mapping[str, Any], prefix: str = "", encoder: str = "params/encoder") -> list[Row]:
    """The same, theirs below `prefix`, ours below `encoder`."""
    model = options.complete(spec)
    learned, pooled = model["position"] == "learned", model["pool"] == "aim"
    table = f"{prefix}embeddings.position_embedding.weight"
    return [
        *blocks.stem(f"{encoder}/stem/patch", f"{prefix}embeddings.patch_embed", model),
        *vit_rows.norm(f"{encoder}/stem_norm", f"{prefix}embeddings.rms_norm", model),
        *(blocks.position(encoder, table, model, axes=2) if learned else []),
        *vit_rows.transformer(f"{prefix}encoder.layers", NAMES, model, encoder),
        *vit_rows.norm(f"{encoder}/transformer/norm", f"{prefix}rms_norm", model),
        *(_pooler(f"{encoder}/pooler", f"{prefix}head", model) if pooled else []),
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
