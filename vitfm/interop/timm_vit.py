"""timm's `VisionTransformer`, which many families are there: options and configuration; `timm_rows` has the rows.

Most options follow from the tensors; a family adds what its architectures' names stand for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import options
from vitfm.interop.weights import Shape
from vitfm.models.vision_transformer import OF_CLASS

POOLS = {"token": "cls", "avg": "gap", "map": "map"}
# Arguments that the tensors tell, or that no answer of ours depends on.
IDLE = ("patch_size", "embed_dim", "depth", "mlp_ratio", "class_token", "reg_tokens", "pre_norm", "init_values")
IDLE += ("fc_norm", "qkv_bias", "proj_bias", "in_chans", "dynamic_img_size", "weight_init", "fix_init")
IDLE += ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
_DEFAULTS = {"qk_norm": False, "pos_embed": "learn", "final_norm": True, "dynamic_img_pad": False}
_DEFAULTS |= {"pool_include_prefix": False, "scale_attn_norm": False, "scale_mlp_norm": False}
_NAMED = ("img_size", "num_heads", "act_layer", "global_pool", "no_embed_class")
_FREE = (*options.SIZES, "activation", "pool", "pool_norm", "final_norm", "class_token", "class_position")
_FREE += ("position_resize", "registers", "layer_scale", "qkv_bias", "out_bias", "mlp_bias", "pre_norm", "stem_bias")


def read(config: Mapping[str, Any], shapes: Mapping[str, Shape], *, epsilon: float, **named: Any) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective.

    Args:
      config: `model_args`, `global_pool` and `num_classes` are read.
      shapes: name -> shape.
      epsilon: of the norms, which no argument tells.
      **named: what the architecture's name stands for: `num_heads` and other arguments of timm's.
    """
    defaults = {"act_layer": "gelu", "global_pool": "token", "no_embed_class": False, "img_size": None}
    args = arguments(config, defaults | named, (*_NAMED, *IDLE), _DEFAULTS)
    return objective(config, _model(args, shapes) | {"epsilon": epsilon})


def architecture(config: Mapping[str, Any]) -> str:
    """Its name without the tag behind the dot."""
    return config["architecture"].split(".")[0]


def unknown(config: Mapping[str, Any], family: str) -> ConfigError:
    """What to raise where the name is none that a family knows."""
    return ConfigError(
        f"config.json: architecture = {config['architecture']!r} is no {family} of timm's that vitfm knows."
    )


def arguments(
    config: Mapping[str, Any], named: Mapping[str, Any], known: tuple[str, ...], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of timm's: by name, overridden by the configuration.

    Raises:
      ConfigError: one that is neither `known` nor one of `defaults` with its value.
    """
    top = {key: config[key] for key in ("global_pool",) if key in config}
    args = {**named, **top, **(config.get("model_args") or {})}
    for key, value in args.items():
        if key not in known and (key not in defaults or value != defaults[key]):
            raise ConfigError(f"config.json: model_args.{key} = {value!r} is not supported.")
    if args["global_pool"] not in POOLS:
        raise ConfigError(
            f"config.json: global_pool = {args['global_pool']!r} is not supported; vitfm knows {', '.join(POOLS)}."
        )
    return args


def objective(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder with its classifier, where there is one."""
    return {"name": "supervised" if config.get("num_classes") else "backbone", "model": dict(model)}


def common(args: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Options that the tensors of all of timm's vision transformers tell alike."""
    filters = shapes["patch_embed.proj.weight"]
    pool, has_class = POOLS[args["global_pool"]], "cls_token" in shapes
    return {
        "name": "vit",
        "patch_size": options.square(filters[2:], "model_args.patch_size"),
        "hidden_dim": filters[0],
        "depth": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
        "num_heads": args["num_heads"],
        "mlp_dim": shapes["blocks.0.mlp.fc2.weight"][1],
        "pool": pool,
        "pool_norm": "fc_norm.weight" in shapes,
        "final_norm": "norm.weight" in shapes,
        "class_token": True if has_class and pool not in OF_CLASS else None,
        "registers": shapes.get("reg_token", (1, 0))[1],
    }


def _model(args: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """All options but epsilon."""
    found = common(args, shapes)
    distilled = "dist_token" in shapes
    prefix = ("cls_token" in shapes) + distilled + found["registers"]
    embedded = bool(prefix) and not args["no_embed_class"]
    if embedded and found["registers"]:
        raise ConfigError("config.json: model_args.no_embed_class = False is not supported where there are registers.")
    if found["pool"] == "map" and prefix:
        raise ConfigError("config.json: global_pool = 'map' beside a class token or registers is not supported.")
    scaled, apart = "blocks.0.ls1.gamma" in shapes, "blocks.0.mlp.fc1_g.weight" in shapes
    return {
        **found,
        "image_size": _image_size(args, shapes["pos_embed"][1] - embedded * prefix, found["patch_size"]),
        "pool": "cls_dist" if "head_dist.weight" in shapes else found["pool"],
        "distillation_token": distilled,
        "class_position": embedded,
        "stem_bias": "patch_embed.proj.bias" in shapes,
        "stem_norm": "patch_embed.norm.weight" in shapes,
        "pre_norm": "norm_pre.weight" in shapes,
        "norm": "layer" if "blocks.0.norm1.bias" in shapes else "rms",
        "layer_scale": (args.get("init_values") or 1e-5) if scaled else None,
        "qkv_bias": "qkv" if "blocks.0.attn.qkv.bias" in shapes else "",
        "out_bias": "blocks.0.attn.proj.bias" in shapes,
        "mlp_bias": "blocks.0.mlp.fc2.bias" in shapes,
        "gated_mlp": apart or shapes["blocks.0.mlp.fc1.weight"][0] == 2 * found["mlp_dim"],
        "activation": activation(args["act_layer"]),
    }


def activation(name: str) -> str:
    """Ours of timm's."""
    return options.activation(name.replace("gelu_tanh", "gelu_new"), "model_args.act_layer")


def their_activation(name: str) -> str:
    """The inverse."""
    return options.their_activation(name).replace("gelu_pytorch_tanh", "gelu_tanh")


def _image_size(args: Mapping[str, Any], patches: int, patch_size: int) -> int:
    """By the table of positions, in which there are `patches`, and as the configuration says."""
    side = math.isqrt(patches)
    given = args["img_size"]
    wanted = side * patch_size if given is None else options.square(given, "model_args.img_size")
    if side * side != patches or wanted != side * patch_size:
        raise ConfigError(
            f"config.json: img_size = {given}, patches of {patch_size} pixels and no_embed_class = "
            f"{args['no_embed_class']} don't go with the {patches} position embeddings of patches in pos_embed."
        )
    return wanted


def write(
    objective: Mapping[str, Any],
    num_classes: int,
    architecture: str,
    *,
    free: tuple[str, ...] = (),
    packed: bool = False,
    **fixed: Any,
) -> dict[str, Any]:
    """Objective -> timm's config.json; what the architecture's name says otherwise is overridden by `model_args`.

    Args:
      objective: "supervised" or "backbone".
      num_classes: of the former.
      architecture: its name stands for `fixed`, such as `epsilon`.
      free: options beside the common ones that it may have.
      packed: a gated MLP is one of twice the width, see `timm_rows`.
      **fixed: options that it has with one value only.

    Raises:
      ConfigError: timm has no such model.
    """
    model = options.only(objective["model"], (*(key for key in _FREE if key not in fixed), *free), **fixed)
    own_class = has_class(model)
    prefix = own_class + model["distillation_token"] + model["registers"]
    pools = their_pools() | {"cls_dist": "token"}
    refuse(
        model,
        pool=model["pool"] not in pools or (model["pool"] == "map" and prefix),
        pool_norm=model["pool_norm"] is model["final_norm"],
        stem_bias=model["stem_bias"] is model["pre_norm"],
        qkv_bias=model["qkv_bias"] not in ("qkv", ""),
        mlp_bias=model["mlp_bias"] is not model["out_bias"],
        registers=model["registers"] and own_class and model["class_position"],
    )
    args = {
        **their_sizes(model, wider=2 if packed and model["gated_mlp"] else 1),
        "class_token": own_class,
        "global_pool": pools[model["pool"]],
        "fc_norm": model["pool_norm"],
        "no_embed_class": bool(prefix) and not model["class_position"],
        "reg_tokens": model["registers"],
        "pre_norm": model["pre_norm"],
        "init_values": model["layer_scale"],
        "qkv_bias": bool(model["qkv_bias"]),
        "proj_bias": model["out_bias"],
        "dynamic_img_size": True,
        "act_layer": their_activation(model["activation"]),
    }
    return their_config(objective, num_classes, architecture, args)


def has_class(model: Mapping[str, Any]) -> bool:
    """Whether a ViT with all its options has a class token."""
    return model["pool"] in OF_CLASS if model["class_token"] is None else model["class_token"]


def their_pools() -> dict[str, str]:
    """Our `pool` -> their `global_pool`."""
    return {ours: theirs for theirs, ours in POOLS.items()}


def refuse(model: Mapping[str, Any], **wrong: Any) -> None:
    """Refuses a model whose options timm can't have: option -> whether it is one of them."""
    for key, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError(
                f"config.objective.model.{key} = {model[key]!r} can't be exported to timm beside the other options: "
                f"{', '.join(f'{name} = {model[name]!r}' for name in wrong if name != key)}."
            )


def their_sizes(model: Mapping[str, Any], *, wider: int = 1) -> dict[str, Any]:
    """Sizes as arguments of timm's; the MLP's first map has `wider` times its width."""
    width, hidden = model["hidden_dim"], wider * (model["mlp_dim"] or 4 * model["hidden_dim"])
    ratio = hidden / width
    return {
        "img_size": model["image_size"],
        "patch_size": model["patch_size"],
        "embed_dim": width,
        "depth": model["depth"],
        "num_heads": model["num_heads"],
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,  # As timm rounds it.
    }


def their_config(
    objective: Mapping[str, Any], num_classes: int, architecture: str, args: Mapping[str, Any]
) -> dict[str, Any]:
    """timm's config.json."""
    return {
        "architecture": architecture,
        "num_classes": num_classes if objective["name"] == "supervised" else 0,
        "num_features": args["embed_dim"],
        "model_args": dict(args),
    }
