"""ConvNeXt (Liu et al. 2022): transformers' `ConvNextModel`, `ConvNextForImageClassification`; timm's `ConvNeXt`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.weights import Row, Shape, Way, flat, linear, patches
from vitfm.models.convnext import SIZES

Names = Mapping[str, str]  # Our part of the network -> the module or tensor that it is in theirs.

_CLASSES = ("ConvNextModel", "ConvNextForImageClassification")
_DEPTHS, _WIDTHS = (3, 3, 9, 3), (96, 192, 384, 768)  # transformers' defaults.
FREE = ("image_size", "patch_size", "depths", "hidden_dims", "activation", "final_epsilon")
depthwise = Way(lambda w: w[:, 0].transpose(1, 2, 0), lambda w: w.transpose(2, 0, 1)[:, None])  # [C,1,k,k] and [k,k,C].
as_filters = Way(lambda w: w[..., 0, 0].T, lambda w: w.T[..., None, None])  # [D,C,1,1] and [C,D].
_GRN = Way(lambda w: w.reshape(-1), lambda w: w.reshape(1, 1, 1, -1))
TRANSFORMERS: Names = {
    "stem": "embeddings.patch_embeddings",
    "stem_norm": "embeddings.layernorm",
    "downsample_norm": "encoder.stages.{stage}.downsampling_layer.0",
    "downsample": "encoder.stages.{stage}.downsampling_layer.1",
    "block": "encoder.stages.{stage}.layers.{index}",
    "depthwise": "dwconv",
    "norm": "layernorm",
    "up": "pwconv1",
    "down": "pwconv2",
    "layer_scale": "layer_scale_parameter",
    "grn": "grn",
    "final": "layernorm",
}
_WHOLE = ("stem", "stem_norm", "downsample_norm", "downsample", "block", "final")  # The others are inside a block.
_TIMM: Names = {
    "stem": "stem.0",
    "stem_norm": "stem.1",
    "downsample_norm": "stages.{stage}.downsample.0",
    "downsample": "stages.{stage}.downsample.1",
    "block": "stages.{stage}.blocks.{index}",
    "depthwise": "conv_dw",
    "norm": "norm",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "layer_scale": "gamma",
    "grn": "mlp.grn",
}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    scale = config.get("layer_scale_init_value", 1e-6)
    model = {**sizes(config), "layer_scale": scale if scale > 0 else None}
    return options.objective(config, model, *_CLASSES)


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What all versions call alike in transformers."""
    options.expect(config, num_stages=len(config.get("depths") or _DEPTHS))
    return {
        "name": "convnext",
        "image_size": options.square(config.get("image_size", 224), "image_size"),
        "patch_size": options.square(config.get("patch_size", 4), "patch_size"),
        "depths": list(config.get("depths") or _DEPTHS),
        "hidden_dims": list(config.get("hidden_sizes") or _WIDTHS),
        "activation": options.activation(config.get("hidden_act", "gelu")),
        "final_epsilon": config.get("layer_norm_eps", 1e-12),
    }


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    model = options.only(objective["model"], (*FREE, "layer_scale"))
    return {
        "model_type": "convnext",
        **their_sizes(model),
        "layer_scale_init_value": model["layer_scale"] or 0.0,
        **options.classes(objective, num_classes, *_CLASSES),
    }


def their_sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `sizes`."""
    return {
        "image_size": model["image_size"],
        "patch_size": model["patch_size"],
        "num_stages": len(model["depths"]),
        "depths": list(model["depths"]),
        "hidden_sizes": list(model["hidden_dims"]),
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"] if model["final_epsilon"] is None else model["final_epsilon"],
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return transformers_rows(objective, "convnext")


def transformers_rows(objective: Mapping[str, Any], name: str) -> list[Row]:
    """transformers' names of either version; `name` is the encoder's in the class with a classifier."""
    classifies = objective["name"] == "supervised"
    prefix = f"{name}." if classifies else ""
    names = {**TRANSFORMERS, **{key: f"{prefix}{TRANSFORMERS[key]}" for key in _WHOLE}}
    table = network(options.complete(objective["model"]), names, _GRN, linear)
    return table + (blocks.dense("params/head/logits", "classifier") if classifies else [])


def network(model: Mapping[str, Any], names: Names, grn: Way, mlp: Way) -> list[Row]:
    """Rows of the whole encoder.

    Args:
      model: all its options.
      names: theirs.
      grn: of the response norm's scale and bias.
      mlp: of the MLP's kernels.
    """
    table = [
        *blocks.dense("params/encoder/stem", names["stem"], patches(model["patch_size"])),
        *blocks.norm("params/encoder/stem_norm", names["stem_norm"]),
        *blocks.norm("params/encoder/norm", names["final"]),
    ]
    for stage, depth in enumerate(model["depths"]):
        if stage:
            ours = f"params/encoder/downsample_{stage}"
            table += blocks.norm(f"{ours}_norm", names["downsample_norm"].format(stage=stage))
            table += blocks.dense(ours, names["downsample"].format(stage=stage), patches(2))
        for index in range(depth):
            ours = f"params/encoder/stage_{stage}_block_{index:02d}"
            table += _block(ours, names["block"].format(stage=stage, index=index), model, names, grn, mlp)
    return table


def _block(ours: str, theirs: str, model: Mapping[str, Any], names: Names, grn: Way, mlp: Way) -> list[Row]:
    response = f"{theirs}.{names.get('grn')}"
    norm = [(f"{ours}/grn/scale", f"{response}.weight", grn), (f"{ours}/grn/bias", f"{response}.bias", grn)]
    scale = [(f"{ours}/layer_scale", f"{theirs}.{names['layer_scale']}", flat)]
    return [
        *blocks.dense(f"{ours}/depthwise", f"{theirs}.{names['depthwise']}", depthwise),
        *blocks.norm(f"{ours}/norm", f"{theirs}.{names['norm']}"),
        *blocks.dense(f"{ours}/up", f"{theirs}.{names['up']}", mlp),
        *blocks.dense(f"{ours}/down", f"{theirs}.{names['down']}", mlp),
        *(norm if model["grn"] else []),
        *(scale if model["layer_scale"] is not None else []),
    ]


# timm. The tensors say most of what a name stands for; `model_args` override the rest.

_SIZE_NAMES = {
    "A": "atto",
    "F": "femto",
    "P": "pico",
    "N": "nano",
    "T": "tiny",
    "S": "small",
    "B": "base",
    "L": "large",
}
_SIZE_NAMES |= {"XL": "xlarge", "XXL": "xxlarge", "H": "huge"}
_NAME = re.compile(rf"convnext(v2)?_({'|'.join(_SIZE_NAMES.values())})(_hnf)?")
_IDLE = ("depths", "dims", "patch_size", "conv_mlp", "use_grn", "ls_init_value", "head_norm_first", "in_chans")
_IDLE += ("drop_rate", "drop_path_rate", "head_init_scale")  # The tensors say it, or no answer depends on it.
_DEFAULTS = {"global_pool": "avg", "output_stride": 32, "kernel_sizes": 7, "stem_type": "patch", "norm_layer": None}
_DEFAULTS |= {"conv_bias": True, "head_hidden_size": None}


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(config["architecture"].split(".")[0])
    if name is None:
        raise ConfigError(
            f"config.json: architecture = {config['architecture']!r} is no ConvNeXt of timm's that vitfm knows."
        )
    options.expect(config, global_pool="avg")
    args = {"act_layer": "gelu", **(config.get("model_args") or {})}
    for key, value in args.items():
        if key not in (*_IDLE, "act_layer", "norm_eps") and (key not in _DEFAULTS or value != _DEFAULTS[key]):
            raise ConfigError(f"config.json: model_args.{key} = {value!r} is not supported.")
    count = lambda stage: len({n.split(".")[3] for n in shapes if n.startswith(f"stages.{stage}.blocks.")})
    widths = [shapes[f"stages.{stage}.blocks.0.conv_dw.weight"][0] for stage in range(4)]
    model = {
        "name": "convnext",
        "patch_size": options.square(shapes["stem.0.weight"][2:], "model_args.patch_size"),
        "depths": [count(stage) for stage in range(4)],
        "hidden_dims": widths,
        "grn": any(n.endswith("mlp.grn.weight") for n in shapes),
        "layer_scale": (args.get("ls_init_value") or 1e-6) if any(n.endswith(".gamma") for n in shapes) else None,
        "final_norm": "tokens" if "norm_pre.weight" in shapes else "pooled",
        "activation": options.activation(args["act_layer"].replace("gelu_tanh", "gelu_new"), "model_args.act_layer"),
        "epsilon": args.get("norm_eps") or (1e-5 if name[2] == "xxlarge" else 1e-6),
    }
    return {"name": "supervised" if config.get("num_classes") else "backbone", "model": model}


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json; what the architecture's name says otherwise is overridden by `model_args`."""
    free = ("image_size", "patch_size", "depths", "hidden_dims", "grn", "layer_scale", "final_norm", "activation")
    model = options.only(objective["model"], (*free, "epsilon", "final_epsilon"))
    if model["final_norm"] == "both" or model["final_epsilon"] not in (None, model["epsilon"]):
        raise ConfigError(
            f"config.objective.model: timm has no ConvNeXt with final_norm = {model['final_norm']!r} and "
            f"final_epsilon = {model['final_epsilon']} beside epsilon = {model['epsilon']}."
        )
    size = _published(model) or "T"
    return {
        "architecture": f"convnext{'v2' if model['grn'] else ''}_{_SIZE_NAMES[size]}",
        "num_classes": num_classes if objective["name"] == "supervised" else 0,
        "num_features": model["hidden_dims"][-1],
        "model_args": {
            "patch_size": model["patch_size"],
            "depths": list(model["depths"]),
            "dims": list(model["hidden_dims"]),
            "use_grn": model["grn"],
            "ls_init_value": model["layer_scale"],
            "head_norm_first": model["final_norm"] == "tokens",
            "conv_mlp": _has_filters(model),
            "act_layer": options.their_activation(model["activation"]).replace("gelu_pytorch_tanh", "gelu_tanh"),
            "norm_eps": model["epsilon"],
        },
    }


def _published(model: Mapping[str, Any]) -> str | None:
    """The name of the model's size that timm has, too, if it is a published one."""
    mine = [tuple(model["depths"]), tuple(model["hidden_dims"])]
    without = "XL", "XXL"  # V2 has neither; the first version has no H.
    sizes = (size for size in SIZES if size not in (without if model["grn"] else "H"))
    return next((size for size in sizes if [*SIZES[size].values()] == mine), None)


def _has_filters(model: Mapping[str, Any]) -> bool:
    """timm's smaller sizes, and those that norm before they pool, have 1x1 convolutions for linear maps."""
    return _published(model) in ("A", "F", "P", "N") or model["final_norm"] == "tokens"


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    model = options.complete(objective["model"])
    names = {**_TIMM, "final": "norm_pre" if model["final_norm"] == "tokens" else "head.norm"}
    table = network(model, names, flat, as_filters if _has_filters(model) else linear)
    return table + (blocks.dense("params/head/logits", "head.fc") if objective["name"] == "supervised" else [])
