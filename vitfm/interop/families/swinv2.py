"""Swin V2 (Liu et al. 2022): transformers' `Swinv2Model`, `Swinv2ForImageClassification`; timm's V2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.families import swin
from vitfm.interop.weights import Row, Shape, Way, flat, linear, same

UNUSED = (
    (r"relative_(position_index|coords_table)$", "tables that follow from the window's size"),
    (r"(^|\.)(attn_mask|k_bias)$", "masks that follow from the sizes of image and window, and zeros"),
    (r"^decoder\.", "Swinv2ForMaskedImageModeling's decoder: vitfm takes the encoder"),
)
_CLASSES = ("Swinv2Model", "Swinv2ForImageClassification")
_MASKED = "Swinv2ForMaskedImageModeling"
_FREE = ("image_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias")
_FREE += ("pretrained_window_size", "activation")
_SCALE = Way(lambda w: w.reshape(-1), lambda w: w.reshape(-1, 1, 1))  # [heads,1,1] and [heads].
_TRANSFORMERS: swin.Names = {
    "attention_norm": "layernorm_before",
    "qkv": tuple(f"attention.self.{x}.weight" for x in ("query", "key", "value")),
    "qv": tuple(f"attention.self.{x}.bias" for x in ("query", "value")),
    "logit_scale": "attention.self.logit_scale",
    "position": "attention.self.continuous_position_bias_mlp",
    "attention/out": "attention.output.dense",
    "mlp_norm": "layernorm_after",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
}
_TIMM: swin.Names = {
    **blocks.TIMM,
    "qkv": "attn.qkv.weight",
    "qv": ("attn.q_bias", "attn.v_bias"),
    "logit_scale": "attn.logit_scale",
    "position": "attn.cpb_mlp",
}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    options.expect(config, use_absolute_embeddings=False)  # With True their own class fails on every image.
    sizes = swin.sizes(config)
    pretrained = list(config.get("pretrained_window_sizes") or [0] * len(sizes["depths"]))[: len(sizes["depths"])]
    model = {"name": "swin", "version": 2, **sizes, "pretrained_window_size": pretrained, "mask_value": -200.0}
    _refuse_halves(model, "config.json: image_size")
    return swin.objective(config, model, _CLASSES, _MASKED)


def _refuse_halves(model: Mapping[str, Any], where: str) -> None:
    """transformers rounds grids down when it fits windows to them, everyone else up."""
    for stage, grid in enumerate(swin.grids(model)):
        up, window = grid[0], model["window_size"]
        down = model["image_size"] // model["patch_size"] >> stage
        if (min(up, window), up > window) != (min(down, window), down > window):
            raise ConfigError(
                f"{where} = {model['image_size']} makes a grid of {up} x {up} in stage {stage}, to which transformers "
                f"fits windows of {window} as if it were {down} x {down}; vitfm does not."
            )


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    free = (*_FREE, "epsilon", "mask_token", "pad")
    model = options.only(objective["model"], free, version=2, mask_value=-200.0)
    if not isinstance(model["window_size"], int):
        raise ConfigError(
            f"config.objective.model.window_size = {model['window_size']} can't be exported: transformers' Swin V2 has "
            "one for all stages."
        )
    swin.refuse_padding(model, "before_shift")
    sizes = swin.their_sizes(model)
    _refuse_halves(model | {"image_size": sizes["image_size"]}, "config.objective.model.image_size")
    config = {"model_type": "swinv2", **sizes, "pretrained_window_sizes": _pretrained(model)}
    return config | swin.their_classes(objective, num_classes, _CLASSES, _MASKED)


def _pretrained(model: Mapping[str, Any]) -> list[int]:
    """One for each stage."""
    size = model["pretrained_window_size"]
    return [size] * len(model["depths"]) if isinstance(size, int) else list(size)


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return swin.transformers_rows(objective, "swinv2", _block_rows, _TRANSFORMERS)


def _block_rows(ours: str, theirs: str, model: Mapping[str, Any], names: swin.Names) -> list[Row]:
    names = {part: swin.below(theirs, name) for part, name in names.items()}
    attention = f"{ours}/attention"
    return [
        *blocks.norm(f"{ours}/attention_norm", names["attention_norm"]),
        (f"{attention}/qkv/kernel", names["qkv"], linear),
        *([(f"{attention}/qkv_bias", names["qv"], flat)] if model["qkv_bias"] else []),
        (f"{attention}/logit_scale", names["logit_scale"], _SCALE),
        (f"{attention}/position_up", f"{names['position']}.0.weight", linear),
        (f"{attention}/position_up_bias", f"{names['position']}.0.bias", same),
        (f"{attention}/position_down", f"{names['position']}.2.weight", linear),
        *swin.common_rows(ours, names),
    ]


# timm.

_NAME = re.compile(r"swinv2_(?:tiny|small|base|large)_window(?:(\d+)to)?(\d+)_(?:\d+to)?(\d+)")
_PRETRAINED = {"12": [12, 12, 12, 6]}  # Windows of 12 at 192 pixels, whose last grid is 6 x 6.


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(config["architecture"].split(".")[0])
    if name is None:
        raise ConfigError(
            f"config.json: architecture = {config['architecture']!r} is no Swin V2 of timm's that vitfm knows."
        )
    args = {"window_size": int(name[2]), "img_size": int(name[3]), **(config.get("model_args") or {})}
    heads = lambda stage: shapes[f"layers.{stage}.blocks.0.attn.logit_scale"][0]
    model = swin.timm_model(args, shapes, heads, known=("pretrained_window_sizes", "act_layer"))
    pretrained = args.get("pretrained_window_sizes", _PRETRAINED.get(name[1], 0))
    model["pretrained_window_size"] = (
        pretrained if isinstance(pretrained, int) else list(pretrained)[: len(model["depths"])]
    )
    model["activation"] = options.activation(
        args.get("act_layer", "gelu").replace("gelu_tanh", "gelu_new"), "model_args.act_layer"
    )
    return swin.timm_objective(config, {**model, "version": 2})


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json; what the architecture's name says otherwise is overridden by `model_args`."""
    model = options.only(objective["model"], (*_FREE, "fit", "pad"), version=2)
    config = swin.timm_arguments(objective, model, num_classes)
    act = options.their_activation(model["activation"]).replace("gelu_pytorch_tanh", "gelu_tanh")
    args = {**config["model_args"], "pretrained_window_sizes": _pretrained(model), "act_layer": act}
    return {"architecture": "swinv2_tiny_window8_256", **config, "model_args": args}


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    return swin.timm_names(objective, _block_rows, _TIMM)
