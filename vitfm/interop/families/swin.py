"""Swin (Liu et al. 2021): transformers' `SwinModel`, `SwinForImageClassification`; timm's `SwinTransformer`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.weights import Row, Shape, Way, patches, token

UNUSED = (
    (r"relative_position_index$", "a table that follows from the window's size"),
    (r"(^|\.)attn_mask$", "masks that follow from the sizes of image and window"),
    (r"^decoder\.", "SwinForMaskedImageModeling's decoder: vitfm takes the encoder"),
)
Names = Mapping[str, str | tuple[str, ...]]  # As `blocks.Names`.

_CLASSES = ("SwinModel", "SwinForImageClassification")
_MASKED = "SwinForMaskedImageModeling"
_SIZES = ("image_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias")
_TABLE = Way(lambda w: w, lambda w: w.reshape(-1, w.shape[-1]))  # [(2h-1)*(2w-1),heads] and [2h-1,2w-1,heads].
_TRANSFORMERS: Names = {**blocks.TRANSFORMERS, "table": "attention.relative_position_bias.relative_position_bias_table"}
_TIMM: Names = {**blocks.TIMM, "table": "attn.relative_position_bias_table"}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    learned = config.get("use_absolute_embeddings", False)
    model = {"name": "swin", **sizes(config), "position": "learned" if learned else "none", "fit": "input"}
    return objective(config, model, _CLASSES, _MASKED)


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What both versions call alike in transformers."""
    return {
        "image_size": options.square(config.get("image_size", 224), "image_size"),
        "patch_size": options.square(config.get("patch_size", 4), "patch_size"),
        "embed_dim": config.get("embed_dim", 96),
        "depths": list(config.get("depths", (2, 2, 6, 2))),
        "num_heads": list(config.get("num_heads", (3, 6, 12, 24))),
        "window_size": options.square(config.get("window_size", 7), "window_size"),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "qkv_bias": config.get("qkv_bias", True),
        "activation": options.activation(config.get("hidden_act", "gelu")),
        "epsilon": config.get("layer_norm_eps", 1e-5),
    }


def objective(
    config: Mapping[str, Any], model: Mapping[str, Any], classes: tuple[str, str], masked: str
) -> dict[str, Any]:
    """As `options.objective`; of the class for masked images the encoder, with its mask token."""
    if config.get("architectures") == [masked]:
        return {"name": "backbone", "model": {**model, "mask_token": True}}
    return options.objective(config, model, *classes)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    model = options.only(objective["model"], (*_SIZES, "activation", "epsilon", "position", "mask_token", "fit", "pad"))
    window = model["window_size"]
    for grid in grids(model):
        if not isinstance(window, int) or window > min(grid):
            raise ConfigError(
                f"config.objective.model.window_size = {window}, which transformers' Swin has in every stage, is "
                f"larger than a stage's grid of {grid[0]} x {grid[1]}, or not one for all: it can't be exported."
            )
    refuse_padding(model, "before_shift")
    learned = model["position"] == "learned"
    config = {"model_type": "swin", **their_sizes(model), "use_absolute_embeddings": learned}
    return config | their_classes(objective, num_classes, _CLASSES, _MASKED)


def their_sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `sizes`."""
    theirs = {key: list(model[key]) if isinstance(model[key], Sequence) else model[key] for key in _SIZES}
    theirs["image_size"] = options.square(model["image_size"], "image_size")
    return {
        **theirs,
        "hidden_act": options.their_activation(model["activation"]),
        "layer_norm_eps": model["epsilon"],
    }


def their_classes(
    objective: Mapping[str, Any], num_classes: int, classes: tuple[str, str], masked: str
) -> dict[str, Any]:
    """The inverse of `objective`."""
    if objective["name"] != "supervised" and objective["model"].get("mask_token"):
        return {"architectures": [masked]}
    return options.classes(objective, num_classes, *classes)


def grids(model: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Rows and columns of each stage of an image of `image_size`."""
    size = model["image_size"]
    sides = (size, size) if isinstance(size, int) else size
    return [
        tuple(-(-side // (model["patch_size"] << stage)) for side in sides) for stage in range(len(model["depths"]))
    ]


def refuse_padding(model: Mapping[str, Any], theirs: str) -> None:
    """Where windows don't divide the grids, it matters whether zeros are added before or after the shift."""
    window, stages = model["window_size"], grids(model)
    sides = [window] * len(stages) if isinstance(window, int) else window
    pairs = zip(stages, ((side, side) if isinstance(side, int) else side for side in sides), strict=True)
    divided = all(n % min(n, side) == 0 for grid, pair in pairs for n, side in zip(grid, pair, strict=True))
    if not divided and model["pad"] != theirs:
        raise ConfigError(
            f"config.objective.model.pad = {model['pad']!r} can't be exported in this format, which has {theirs!r}, "
            f"and windows of {window} don't divide the grids of images of {model['image_size']} pixels."
        )


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return transformers_rows(objective, "swin", _block_rows, _TRANSFORMERS)


def transformers_rows(objective: Mapping[str, Any], name: str, block_rows: Any, names: Names) -> list[Row]:
    """transformers' names of either version, whose blocks differ."""
    model, classifies = options.complete(objective["model"]), objective["name"] == "supervised"
    prefix = f"{name}." if classifies or model["mask_token"] else ""
    embeddings, layers = f"{prefix}embeddings", f"{prefix}encoder.layers"
    table = [
        *blocks.dense("params/encoder/stem/patch", f"{embeddings}.patch_embeddings.projection", _filters(model)),
        *blocks.norm("params/encoder/stem_norm", f"{embeddings}.norm"),
        *stages(model, lambda stage: f"{layers}.{stage - 1}", lambda stage: f"{layers}.{stage}", block_rows, names),
        *blocks.norm("params/encoder/norm", f"{prefix}layernorm"),
    ]
    if model["position"] == "learned":
        way = Way(lambda w: w, lambda w: w.reshape(1, -1, w.shape[-1]))
        table.append(("params/encoder/position", f"{embeddings}.position_embeddings", way))
    if model["mask_token"]:
        table.append(("params/encoder/mask_token", f"{embeddings}.mask_token", token))
    return table + (blocks.dense("params/head/logits", "classifier") if classifies else [])


def _filters(model: Mapping[str, Any]) -> Way:
    return patches(model["patch_size"])


def stages(model: Mapping[str, Any], merge: Any, stage_name: Any, block_rows: Any, names: Names) -> list[Row]:
    """Blocks, and the merging before each stage but the first, which is `merge(stage)` in theirs."""
    table: list[Row] = []
    for stage, depth in enumerate(model["depths"]):
        if stage:
            ours, theirs = f"params/encoder/stage_{stage}_merge", f"{merge(stage)}.downsample"
            table += blocks.norm(f"{ours}/norm", f"{theirs}.norm")
            table += blocks.dense(f"{ours}/reduction", f"{theirs}.reduction", bias=False)
        for layer in range(depth):
            block = f"params/encoder/stage_{stage}/block_{layer:02d}"
            table += block_rows(block, f"{stage_name(stage)}.blocks.{layer}", model, names)
    return table


def _block_rows(ours: str, theirs: str, model: Mapping[str, Any], names: Names) -> list[Row]:
    names = {part: below(theirs, name) for part, name in names.items()}
    return [
        *blocks.norm(f"{ours}/attention_norm", names["attention_norm"]),
        *blocks.dense(f"{ours}/attention/qkv", names["attention/qkv"], bias=model["qkv_bias"]),
        (f"{ours}/attention/position_table", names["table"], _TABLE),
        *common_rows(ours, names),
    ]


def below(parent: str, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Their name or names inside a module of theirs."""
    return f"{parent}.{names}" if isinstance(names, str) else tuple(f"{parent}.{name}" for name in names)


def common_rows(ours: str, names: Names) -> list[Row]:
    """Of a block in both versions."""
    return [
        *blocks.dense(f"{ours}/attention/out", names["attention/out"]),
        *blocks.norm(f"{ours}/mlp_norm", names["mlp_norm"]),
        *blocks.dense(f"{ours}/mlp/up", names["mlp/up"]),
        *blocks.dense(f"{ours}/mlp/down", names["mlp/down"]),
    ]


# timm.

_NAME = re.compile(r"swin_(?:(?:tiny|small|base|large)_patch4_window(\d+)|s3_(tiny|small|base))_(\d+)")
_S3 = {"tiny": [7, 7, 14, 7], "small": [14, 14, 14, 7], "base": [7, 7, 14, 7]}  # Windows (arXiv:2111.14725).


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(config["architecture"].split(".")[0])
    if name is None:
        raise ConfigError(
            f"config.json: architecture = {config['architecture']!r} is no Swin of timm's that vitfm knows."
        )
    args = {
        "window_size": _S3[name[2]] if name[2] else int(name[1]),
        "img_size": int(name[3]),
        **(config.get("model_args") or {}),
    }
    heads = lambda stage: shapes[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"][1]
    return timm_objective(config, timm_model(args, shapes, heads))


def timm_objective(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    options.expect(config, global_pool="avg")
    return {"name": "supervised" if config.get("num_classes") else "backbone", "model": dict(model)}


_IDLE = ("strict_img_size", "dynamic_img_size", "drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
_IDLE += ("in_chans", "weight_init", "patch_size", "embed_dim", "depths", "num_heads", "mlp_ratio", "qkv_bias")
_IDLE += ("img_size", "window_size")  # Nothing we answer depends on these, or the tensors say it.


def timm_model(args: Mapping[str, Any], shapes: Mapping[str, Shape], heads: Any, known: Sequence[str] = ()) -> Any:
    """The options of either version.

    Args:
      args: what timm's model is made with.
      shapes: of its tensors.
      heads: stage -> its heads, which the two versions show in the shapes of other tensors.
      known: arguments that are read elsewhere.
    """
    for key, value in args.items():
        expected = {"always_partition": False, "head_dim": None, "global_pool": "avg"}
        if key not in (*_IDLE, *known) and (key not in expected or value != expected[key]):
            raise ConfigError(f"config.json: model_args.{key} = {value!r} is not supported.")
    filters, stages = shapes["patch_embed.proj.weight"], {name.split(".")[1] for name in shapes if "blocks" in name}
    count = lambda stage: len({n.split(".")[3] for n in shapes if n.startswith(f"layers.{stage}.blocks.")})
    sides = args["img_size"] if isinstance(args["img_size"], int) else list(args["img_size"])
    patch = options.square(filters[2:], "model_args.patch_size")
    if any(side % patch for side in ([sides] if isinstance(sides, int) else sides)):
        raise ConfigError(f"config.json: img_size = {sides} does not divide into patches of {patch} pixels.")
    window = args["window_size"]
    if not isinstance(window, int):  # Two numbers are rows and columns.
        two = len(window) == 2 and isinstance(window[0], int)
        window = [list(window)] * len(stages) if two else [w if isinstance(w, int) else list(w) for w in window]
    return {
        "name": "swin",
        "image_size": sides,
        "patch_size": patch,
        "embed_dim": filters[0],
        "depths": [count(stage) for stage in range(len(stages))],
        "num_heads": [heads(stage) for stage in range(len(stages))],
        "window_size": window,
        "mlp_ratio": shapes["layers.0.blocks.0.mlp.fc1.weight"][0] / filters[0],
        "qkv_bias": any(name.endswith(("qkv.bias", "q_bias")) for name in shapes),
        "pad": "after_shift",
    }


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json; what the architecture's name says otherwise is overridden by `model_args`."""
    model = options.only(objective["model"], (*_SIZES, "fit", "pad"))
    return {"architecture": "swin_tiny_patch4_window7_224", **timm_arguments(objective, model, num_classes)}


def timm_arguments(objective: Mapping[str, Any], model: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """The rest of timm's config.json, of either version."""
    largest = lambda w: w if isinstance(w, int) else max(map(largest, w))
    if model["fit"] == "input" and largest(model["window_size"]) > min(map(min, grids(model))):
        raise ConfigError(
            f"config.objective.model.fit = 'input' can't be exported to timm where windows of {model['window_size']} "
            "are larger than a stage's grid: timm shrinks them."
        )
    refuse_padding(model, "after_shift")
    args = {key: model[key] for key in _SIZES if key != "image_size"}
    return {
        "num_classes": num_classes if objective["name"] == "supervised" else 0,
        "num_features": model["embed_dim"] * 2 ** (len(model["depths"]) - 1),
        "model_args": {"img_size": model["image_size"], **args, "dynamic_img_size": True},
    }


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    return timm_names(objective, _block_rows, _TIMM)


def timm_names(objective: Mapping[str, Any], block_rows: Any, names: Names) -> list[Row]:
    """timm's names of either version, whose blocks differ."""
    model, layers = options.complete(objective["model"]), lambda stage: f"layers.{stage}"
    return [
        *blocks.dense("params/encoder/stem/patch", "patch_embed.proj", _filters(model)),
        *blocks.norm("params/encoder/stem_norm", "patch_embed.norm"),
        *stages(model, layers, layers, block_rows, names),
        *blocks.norm("params/encoder/norm", "norm"),
        *(blocks.dense("params/head/logits", "head.fc") if objective["name"] == "supervised" else []),
    ]
