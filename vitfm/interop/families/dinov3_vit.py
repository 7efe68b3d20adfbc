"""DINOv3's vision transformers (Siméoni et al. 2025): transformers' `DINOv3ViTModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitfm.interop import blocks, options, vit_rows
from vitfm.interop.weights import Row

_CLASSES = ("DINOv3ViTModel", "DINOv3ViTForImageClassification")  # The second is not in transformers.
_NAMES: blocks.Names = {
    "attention_norm": "norm1",
    "attention/qkv": blocks.QUERY_KEY_VALUE,
    "attention/out": "attention.o_proj",
    "attention_scale": "layer_scale1.lambda1",
    "mlp_norm": "norm2",
    **{f"mlp/{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
    "mlp_scale": "layer_scale2.lambda1",
}
_TOKENS = {
    "class_token": ("embeddings.cls_token", vit_rows.token),
    "registers": ("embeddings.register_tokens", vit_rows.registers),
    "mask_token": ("embeddings.mask_token", vit_rows.token),
}
_BIASES = {"q": "query_bias", "k": "key_bias", "v": "value_bias"}
_DEFAULTS = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
_FIXED = {"position": "rope", "pool": "cls", "mask_token": True}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    biased = lambda letter: config.get(_BIASES[letter], letter != "k")
    model = {
        "name": "vit",
        **options.sizes(config, **_DEFAULTS),
        **_FIXED,
        "rope": {
            "base": float(config.get("rope_theta", 100.0)),
            "shift": config.get("pos_embed_shift"),
            "jitter": config.get("pos_embed_jitter"),
            "rescale": config.get("pos_embed_rescale", 2.0),
        },
        "registers": config.get("num_register_tokens", 0),
        "layer_scale": config.get("layerscale_value", 1.0),
        "qkv_bias": "".join(filter(biased, "qkv")),
        "out_bias": config.get("proj_bias", True),
        "mlp_bias": config.get("mlp_bias", True),
        "gated_mlp": config.get("use_gated_mlp", False),
        "activation": options.activation(config.get("hidden_act", "gelu")),
        "epsilon": config.get("layer_norm_eps", 1e-5),
    }
    return options.objective(config, model, *_CLASSES)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free = (*options.SIZES, "activation", "epsilon", "rope", "registers", "layer_scale", "qkv_bias", "out_bias")
    model = options.only(objective["model"], (*free, "mlp_bias", "gated_mlp"), **_FIXED)
    rope = {"base": 100.0, "normalize": "separate", "min_period": None, "max_period": None, **model["rope"]}
    refused = rope["normalize"] != "separate" or (rope["min_period"], rope["max_period"]) != (None, None)
    if objective["name"] != "backbone" or model["layer_scale"] is None or refused:
        raise options.ConfigError(
            "config.objective: transformers' DINOv3 is a backbone with layer_scale, and with rope.base and coordinates "
            f"normalised by 'separate' sides; this is {objective['name']!r} with layer_scale = {model['layer_scale']}, "
            f"rope = {model['rope']}."
        )
    return {
        "model_type": "dinov3_vit",
        **options.their_sizes(model),
        "rope_theta": rope["base"],
        **{f"pos_embed_{name}": rope.get(name) for name in ("shift", "jitter", "rescale")},
        "num_register_tokens": model["registers"],
        "layerscale_value": model["layer_scale"],
        **{key: letter in model["qkv_bias"] for letter, key in _BIASES.items()},
        "proj_bias": model["out_bias"],
        "mlp_bias": model["mlp_bias"],
        "use_gated_mlp": model["gated_mlp"],
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"],
        **options.classes(objective, num_classes, *_CLASSES),
    }


def computed(objective: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Where there are no registers, the tensor that holds none."""
    model = options.complete(objective["model"])
    return {} if model["registers"] else {_TOKENS["registers"][0]: np.zeros((1, 0, model["hidden_dim"]), np.float32)}


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    model = options.complete(objective["model"])
    return [
        *vit_rows.tokens(_TOKENS, model),
        *blocks.stem("params/encoder/stem/patch", "embeddings.patch_embeddings", model),
        *vit_rows.transformer("model.layer", _NAMES, model),
        *vit_rows.norm("params/encoder/transformer/norm", "norm", model),
    ]
