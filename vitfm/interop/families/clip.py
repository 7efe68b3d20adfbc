"""CLIP (Radford et al. 2021): transformers' `CLIPModel`, open_clip's `CLIP`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.weights import Row, linear, same

_TEXT = ("hidden_dim", "depth", "num_heads", "mlp_dim")
_TEXT_DEFAULTS = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}
_IMAGE = {"pool": "cls", "class_position": True, "pre_norm": True, "stem_bias": False, "position_resize": "bicubic"}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective; vocabulary and length of the texts come from the tokenizer."""
    name = (config.get("architectures") or ["CLIPModel"])[0]
    if name != "CLIPModel":
        raise ConfigError(f"config.json: architectures = [{name!r}] is not known; there is CLIPModel.")
    image, text = config.get("vision_config") or {}, config.get("text_config") or {}
    towers = {
        "image": {"name": "vit", **options.sizes(image, patch_size=32), **_IMAGE, **_shared(image)},
        "text": {
            "name": "text",
            **{ours: text.get(key, _TEXT_DEFAULTS[key]) for ours, key in _text_keys()},
            "causal": True,
            "pool": "last",
            **_shared(text),
        },
    }
    scale = math.exp(config.get("logit_scale_init_value", math.log(1 / 0.07)))
    return {"name": "clip", **towers, "embed_dim": config.get("projection_dim", 512), "initial_scale": scale}


def _text_keys() -> list[tuple[str, str]]:
    """Our options of the text tower, and transformers' keys."""
    return [(ours, options.SIZES[ours][0]) for ours in _TEXT]


def _shared(tower: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "activation": options.activation(tower.get("hidden_act", "quick_gelu")),
        "epsilon": tower.get("layer_norm_eps", 1e-5),
    }


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json; who knows the tokenizer adds `vocab_size` and its like."""
    image, text = _towers(objective)
    sizes = {key: text[ours] for ours, key in _text_keys()}
    config = lambda tower: {
        "hidden_act": options.their_activation(tower["activation"]),
        "layer_norm_eps": tower["epsilon"],
        "projection_dim": _embed_dim(objective),
    }
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": _embed_dim(objective),
        "logit_scale_init_value": math.log(objective.get("initial_scale", 1 / 0.07)),
        "vision_config": {"model_type": "clip_vision_model", **options.their_sizes(image), **config(image)},
        "text_config": {"model_type": "clip_text_model", **sizes, **config(text)},
    }


def _towers(objective: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All options of both towers, after refusing what no CLIP has."""
    if objective.get("clamped", "parameter") != "parameter":
        raise ConfigError(f"config.objective.clamped = {objective['clamped']!r} can't be exported: CLIP clamps none.")
    free = ("activation", "epsilon", "position_resize", "class_position")
    fixed = {key: value for key, value in _IMAGE.items() if key not in free}
    image = options.only(objective["image"], (*options.SIZES, *free), where="objective.image", **fixed)
    text = options.only(objective["text"], (*_TEXT, *free), where="objective.text", causal=True, pool="last")
    return image, {**text, "mlp_dim": text["mlp_dim"] or 4 * text["hidden_dim"]}


def _embed_dim(objective: Mapping[str, Any]) -> int:
    return objective.get("embed_dim", 512)


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    image, text = options.complete(objective["image"]), options.complete(objective["text"])
    names, ours, theirs = blocks.TRANSFORMERS_CLIP, "params/image/tower", "vision_model"
    table = [
        ("params/logit_scale", "logit_scale", same),
        ("params/image/projection/kernel", "visual_projection.weight", linear),
        ("params/text/projection/kernel", "text_projection.weight", linear),
        (f"{ours}/class_token", f"{theirs}.embeddings.class_embedding", same),
        *blocks.position(ours, f"{theirs}.embeddings.position_embedding.weight", image, axes=2),
        *blocks.stem(f"{ours}/stem/patch", f"{theirs}.embeddings.patch_embedding", image),
        *blocks.norm(f"{ours}/pre_norm", f"{theirs}.pre_layrnorm"),
        *blocks.transformer(f"{ours}/transformer", f"{theirs}.encoder.layers", image["depth"], names),
        *blocks.norm(f"{ours}/transformer/norm", f"{theirs}.post_layernorm"),
    ]
    ours, theirs = "params/text/tower", "text_model"
    return [
        *table,
        (f"{ours}/embedding", f"{theirs}.embeddings.token_embedding.weight", same),
        (f"{ours}/position", f"{theirs}.embeddings.position_embedding.weight", same),
        *blocks.transformer(f"{ours}/transformer", f"{theirs}.encoder.layers", text["depth"], names),
        *blocks.norm(f"{ours}/transformer/norm", f"{theirs}.final_layer_norm"),
    ]


# open_clip.

_VISION = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "patch_size": 16, "mlp_ratio": 4.0}
_OPEN_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
_IDLE = ("hf_tokenizer_name", "tokenizer_kwargs", "patch_dropout", "init_logit_scale", "eos_id")


def open_clip_read(config: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip_config.json -> objective."""
    model = config["model_cfg"]
    vision, text = (model.get(key, {}) for key in ("vision_cfg", "text_cfg"))
    for where, part, known in (
        ("", model, ("embed_dim", "quick_gelu", "vision_cfg", "text_cfg", *_IDLE)),
        ("vision_cfg.", vision, (*_VISION, *_IDLE)),
        ("text_cfg.", text, (*_OPEN_TEXT, *_IDLE, "pool_type")),
    ):
        unknown = [key for key in part if key not in known and part[key] not in (None, False)]
        if unknown:
            key = unknown[0]
            raise ConfigError(f"open_clip_config.json: model_cfg.{where}{key} = {part[key]!r} is not supported.")
    if text.get("pool_type", "eos") not in ("argmax", "eos"):  # Both are where the text ends.
        raise ConfigError(f"open_clip_config.json: text_cfg.pool_type = {text['pool_type']!r} is not supported.")
    vision, text = {**_VISION, **vision}, {**_OPEN_TEXT, **text}
    shared = {"activation": "quick_gelu" if model.get("quick_gelu") else "gelu", "epsilon": 1e-5}
    image = {
        "name": "vit",
        "image_size": options.square(vision["image_size"], "vision_cfg.image_size"),
        "patch_size": options.square(vision["patch_size"], "vision_cfg.patch_size"),
        "hidden_dim": vision["width"],
        "depth": vision["layers"],
        "num_heads": vision["width"] // vision["head_width"],
        "mlp_dim": int(vision["width"] * vision["mlp_ratio"]),
        **{**_IMAGE, "position_resize": "antialiased"},
        **shared,
    }
    sizes = {"hidden_dim": text["width"], "depth": text["layers"], "num_heads": text["heads"]}
    sizes["mlp_dim"] = int(text["width"] * text["mlp_ratio"])
    return {
        "name": "clip",
        "image": image,
        "text": {"name": "text", **sizes, "causal": True, "pool": "last", **shared},
        "embed_dim": model["embed_dim"],
    }


def open_clip_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> open_clip_config.json; who knows the tokenizer adds `vocab_size` and its like."""
    image, text = _towers(objective)
    image["mlp_dim"] = image["mlp_dim"] or 4 * image["hidden_dim"]
    activations = {tower["activation"] for tower in (image, text)}
    epsilons = {tower["epsilon"] for tower in (image, text)}
    if len(activations) > 1 or not activations <= {"gelu", "quick_gelu"} or epsilons != {1e-5}:
        raise ConfigError(
            "config.objective: open_clip has one activation, gelu or quick_gelu, and epsilon = 1e-5 in both towers."
        )
    return {
        "model_cfg": {
            "embed_dim": _embed_dim(objective),
            "quick_gelu": activations == {"quick_gelu"},
            **open_clip_sizes(image, text),
        }
    }


def open_clip_sizes(image: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`vision_cfg` and `text_cfg` of two towers, whose options are complete: what all of open_clip's models have."""
    return {
        "vision_cfg": {
            "image_size": image["image_size"],
            "patch_size": image["patch_size"],
            "layers": image["depth"],
            "width": image["hidden_dim"],
            "head_width": image["hidden_dim"] // image["num_heads"],
            "mlp_ratio": image["mlp_dim"] / image["hidden_dim"],
        },
        "text_cfg": {
            "width": text["hidden_dim"],
            "heads": text["num_heads"],
            "layers": text["depth"],
            "mlp_ratio": text["mlp_dim"] / text["hidden_dim"],
        },
    }


def open_clip_rows(objective: Mapping[str, Any]) -> list[Row]:
    """open_clip's names."""
    image, text = options.complete(objective["image"]), options.complete(objective["text"])
    ours, theirs = "params/image/tower", "visual"
    table = [
        ("params/logit_scale", "logit_scale", same),
        ("params/image/projection/kernel", f"{theirs}.proj", same),
        ("params/text/projection/kernel", "text_projection", same),
        (f"{ours}/class_token", f"{theirs}.class_embedding", same),
        *blocks.position(ours, f"{theirs}.positional_embedding", image, axes=2),
        *blocks.stem(f"{ours}/stem/patch", f"{theirs}.conv1", image),
        *blocks.norm(f"{ours}/pre_norm", f"{theirs}.ln_pre"),
        *blocks.transformer(f"{ours}/transformer", f"{theirs}.transformer.resblocks", image["depth"], blocks.OPEN_CLIP),
        *blocks.norm(f"{ours}/transformer/norm", f"{theirs}.ln_post"),
    ]
    ours = "params/text/tower"
    return [
        *table,
        (f"{ours}/embedding", "token_embedding.weight", same),
        (f"{ours}/position", "positional_embedding", same),
        *blocks.transformer(f"{ours}/transformer", "transformer.resblocks", text["depth"], blocks.OPEN_CLIP),
        *blocks.norm(f"{ours}/transformer/norm", "ln_final"),
    ]
