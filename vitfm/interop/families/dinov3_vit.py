"""DINOv3's vision transformers (Siméoni et al. 2025): transformers' `DINOv3ViTModel`; timm's `Eva`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitfm.interop import blocks, options, timm_vit, vit_rows
from vitfm.interop import timm_rows as timm
from vitfm.interop.weights import Row, Shape

_CLASS = "DINOv3ViTModel"
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
    return options.objective(config, model, _CLASS)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free = (*options.SIZES, "activation", "epsilon", "rope", "registers", "layer_scale", "qkv_bias", "out_bias")
    model = options.only(objective["model"], (*free, "mlp_bias", "gated_mlp"), **_FIXED)
    rope = _only_base(model["rope"])
    if objective["name"] != "backbone" or model["layer_scale"] is None or rope is None:
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
        "architectures": [_CLASS],
    }


def _only_base(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """All of `Rope`'s options that other libraries have; None where others are not as by default."""
    rope = {"base": 100.0, "shift": None, "jitter": None, "rescale": None, **given}
    others = {"normalize": "separate", "min_period": None, "max_period": None}
    return rope if all(rope.get(key, value) == value for key, value in others.items()) else None


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


# timm. It pools the patches' mean unless `global_pool` says otherwise; "qkvb" has biases of queries and values.

_NAME = re.compile(r"vit_(tiny|small|small_plus|base|large|huge_plus|7b)_patch16_dinov3(?:_qkvb)?")
_HEADS = {"tiny": 3, "small": 6, "small_plus": 6, "base": 12, "large": 16, "huge_plus": 20, "7b": 32}
_TIMM: blocks.Names = {
    **blocks.TIMM,
    "mlp/gate": "mlp.fc1_g",
    "attention_scale": "gamma_1",
    "mlp_scale": "gamma_2",
}
_ROPE = {"shift": "rope_shift_coords", "jitter": "rope_jitter_coords", "rescale": "rope_rescale_coords"}
_KNOWN = ("img_size", "num_heads", "global_pool", "rope_temperature", "num_reg_tokens", "swiglu_mlp", "use_fc_norm")
_KNOWN += ("swiglu_align_to", "head_init_scale", *_ROPE.values(), *timm_vit.IDLE)
_SAID = {"rope_type": "dinov3", "rope_rotate_half": True, "use_rot_pos_emb": True, "use_abs_pos_emb": False}


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(timm_vit.architecture(config))
    if name is None:
        raise timm_vit.unknown(config, "DINOv3")
    named = {"num_heads": _HEADS[name[1]], "img_size": 256, "global_pool": "avg", "rope_temperature": 100.0}
    args = timm_vit.arguments(config, named, _KNOWN, _SAID)
    gated = "blocks.0.mlp.fc1_g.weight" in shapes
    model = timm_vit.common(args, shapes) | {
        "image_size": options.square(args["img_size"], "model_args.img_size"),
        "position": "rope",
        "rope": {"base": float(args["rope_temperature"]), **{ours: args.get(key) for ours, key in _ROPE.items()}},
        "layer_scale": args.get("init_values") or 1e-5,
        "qkv_bias": "qv" if "blocks.0.attn.q_bias" in shapes else "",
        "gated_mlp": gated,
        "activation": "silu" if gated else "gelu",
        "epsilon": 1e-5,
    }
    return timm_vit.objective(config, model)


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json."""
    gated = objective["model"].get("gated_mlp", False)
    free = (*options.SIZES, "pool", "pool_norm", "final_norm", "class_token", "rope", "registers", "layer_scale")
    fixed = {"position": "rope", "gated_mlp": gated, "activation": "silu" if gated else "gelu", "epsilon": 1e-5}
    model = options.only(objective["model"], (*free, "qkv_bias"), **fixed)
    rope = _only_base(model["rope"])
    timm_vit.refuse(
        model,
        pool=model["pool"] not in ("cls", "gap"),
        class_token=not timm_vit.has_class(model),
        pool_norm=model["pool_norm"] is model["final_norm"],
        layer_scale=model["layer_scale"] is None,
        rope=rope is None,
        qkv_bias=model["qkv_bias"] not in ("qv", ""),
    )
    args = {
        **timm_vit.their_sizes(model),
        "global_pool": timm_vit.their_pools()[model["pool"]],
        "use_fc_norm": model["pool_norm"],
        "num_reg_tokens": model["registers"],
        "rope_temperature": rope["base"],
        **{key: rope[ours] for ours, key in _ROPE.items()},
        "init_values": model["layer_scale"],
        "qkv_bias": bool(model["qkv_bias"]),
        **({"swiglu_align_to": 1} if gated else {}),
    }
    architecture = f"vit_small{'_plus' if gated else ''}_patch16_dinov3"
    return timm_vit.their_config(objective, num_classes, architecture, args)


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    model = options.complete(objective["model"])
    names = {**_TIMM, "mlp/up": "mlp.fc1_x"} if model["gated_mlp"] else _TIMM
    return timm.around(objective["name"], model, names)
