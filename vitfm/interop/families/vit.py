"""ViT (Dosovitskiy et al. 2021): transformers' `ViTModel`, `ViTForImageClassification`; timm's `VisionTransformer`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.weights import Row, Shape, token

UNUSED = ((r"^pooler\.", "ViTModel's pooler: vitfm's pooled output is the class token, as in the paper"),)

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

_NAME = re.compile(r"vit_(tiny|small|base|large|huge)_patch(\d+)(?:_(gap|clip|clip_quickgelu))?_(\d+)")
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
_VARIANTS = {
    None: {},
    "gap": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "clip": {"pre_norm": True, "epsilon": 1e-5},
    "clip_quickgelu": {"pre_norm": True, "epsilon": 1e-5, "act_layer": "quick_gelu"},
}
_ARCHITECTURES = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}  # By the epsilon they come with.
_DEFAULTS = {"class_token": True, "global_pool": "token", "pre_norm": False, "epsilon": 1e-6, "act_layer": "gelu"}
_DEFAULTS |= {"mlp_ratio": 4.0, "no_embed_class": False}
_IDLE = ("dynamic_img_size", "weight_init", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate")
_IDLE += ("attn_drop_rate", "drop_path_rate", "fix_init", "in_chans")  # Nothing we answer depends on these.


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(config["architecture"].split(".")[0])
    if name is None:
        raise ConfigError(
            f"config.json: architecture = {config['architecture']!r} is no ViT of timm's that vitfm knows."
        )
    given = {key: config[key] for key in ("global_pool",) if key in config} | dict(config.get("model_args") or {})
    args = {**_DEFAULTS, "num_heads": _HEADS[name[1]], "img_size": int(name[4]), **_VARIANTS[name[3]], **given}
    _refuse(args)
    filters, table = shapes["patch_embed.proj.weight"], shapes["pos_embed"]
    token = args["class_token"]
    model = {
        "name": "vit",
        "image_size": options.square(args["img_size"], "model_args.img_size"),
        "patch_size": options.square(filters[2:], "model_args.patch_size"),
        "hidden_dim": filters[0],
        "depth": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        "num_heads": args["num_heads"],
        "mlp_dim": shapes["blocks.0.mlp.fc1.weight"][0],
        "stem_bias": not args["pre_norm"],
        "pool": "cls" if token else "gap",
        "class_position": token and not args["no_embed_class"],
        "pre_norm": args["pre_norm"],
        "activation": options.activation(args["act_layer"], "model_args.act_layer"),
        "epsilon": args["epsilon"],
    }
    grid = (model["image_size"] // model["patch_size"]) ** 2 + model["class_position"]
    if table[1] != grid:
        raise ConfigError(
            f"config.json: img_size = {model['image_size']} means {grid} position embeddings; pos_embed has {table[1]}."
        )
    return {"name": "supervised" if config.get("num_classes") else "backbone", "model": model}


def _refuse(args: Mapping[str, Any]) -> None:
    """Arguments of timm's that our ViT can't be told."""
    pooled = (args["class_token"], args["global_pool"], args.get("fc_norm") or False)
    if pooled not in ((True, "token", False), (False, "avg", False)) or (not pooled[0] and "fc_norm" not in args):
        raise ConfigError(
            f"config.json: class_token = {pooled[0]}, global_pool = {pooled[1]!r}, fc_norm = {args.get('fc_norm')} is "
            "not supported; vitfm knows a class token pooled as 'token', and none pooled as 'avg' with fc_norm = False."
        )
    known = (*_DEFAULTS, *_IDLE, "img_size", "patch_size", "embed_dim", "depth", "num_heads", "fc_norm")
    defaults = {"qkv_bias": True, "qk_norm": False, "init_values": None, "reg_tokens": 0, "pos_embed": "learn"}
    defaults |= {"final_norm": True, "proj_bias": True, "dynamic_img_pad": False}
    for key, value in args.items():
        if key not in known and (key not in defaults or value != defaults[key]):
            raise ConfigError(f"config.json: model_args.{key} = {value!r} is not supported.")


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json; what the architecture's name says otherwise is overridden by `model_args`."""
    free = (
        *options.SIZES,
        "activation",
        "epsilon",
        "class_position",
        "position_resize",
        "pool",
        "pre_norm",
        "stem_bias",
    )
    model = options.only(objective["model"], free)
    if model["epsilon"] not in _ARCHITECTURES or model["stem_bias"] == model["pre_norm"]:
        raise ConfigError(
            f"config.objective.model: timm has no ViT with epsilon = {model['epsilon']}, stem_bias = "
            f"{model['stem_bias']}, pre_norm = {model['pre_norm']}; its epsilons are {list(_ARCHITECTURES)}, and it "
            "has either a bias in the stem or a norm after it."
        )
    cls = model["pool"] == "cls"
    return {
        "architecture": _ARCHITECTURES[model["epsilon"]],
        "num_classes": num_classes if objective["name"] == "supervised" else 0,
        "num_features": model["hidden_dim"],
        "model_args": {
            "img_size": model["image_size"],
            "patch_size": model["patch_size"],
            "embed_dim": model["hidden_dim"],
            "depth": model["depth"],
            "num_heads": model["num_heads"],
            "mlp_ratio": (model["mlp_dim"] or 4 * model["hidden_dim"]) / model["hidden_dim"],
            "class_token": cls,
            "global_pool": "token" if cls else "avg",
            "fc_norm": False,
            "no_embed_class": cls and not model["class_position"],
            "pre_norm": model["pre_norm"],
            "dynamic_img_size": True,
            "act_layer": options.their_activation(model["activation"]).replace("gelu_pytorch_tanh", "gelu_tanh"),
        },
    }


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    model = options.complete(objective["model"])
    cls = [("params/encoder/class_token", "cls_token", token)] if model["pool"] == "cls" else []
    table = {
        **model,
        "pool": "cls" if model["class_position"] else "gap",
    }  # With no_embed_class it holds the patches alone.
    return [
        *cls,
        *blocks.position("params/encoder", "pos_embed", table, axes=3),
        *blocks.stem("params/encoder/stem/patch", "patch_embed.proj", model),
        *(blocks.norm("params/encoder/pre_norm", "norm_pre") if model["pre_norm"] else []),
        *blocks.transformer("params/encoder/transformer", "blocks", model["depth"], blocks.TIMM),
        *blocks.norm("params/encoder/transformer/norm", "norm"),
        *(blocks.dense("params/head/logits", "head") if objective["name"] == "supervised" else []),
    ]
