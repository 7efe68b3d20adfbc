"""BiT (Kolesnikov et al. 2020): transformers' `BitModel`, `BitForImageClassification`; timm's `ResNetV2` of BiT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.families.convnext import as_filters
from vitfm.interop.weights import Row, Shape, Way, filters, linear
from vitfm.models.bit import SIZES

_CLASSES = ("BitModel", "BitForImageClassification")
_FREE = ("image_size", "stem_dim", "depths", "hidden_dims")
_STEP = 32  # Of widths: transformers and timm round the bottlenecks of others to multiples of 8.


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    options.expect(
        config,
        layer_type="preactivation",
        hidden_act="relu",
        global_padding=None,
        embedding_dynamic_padding=False,
        output_stride=32,
        width_factor=1,
    )
    model = {
        "name": "bit",
        "stem_dim": config.get("embedding_size", 64),
        "depths": list(config.get("depths", (3, 4, 6, 3))),
        "hidden_dims": list(config.get("hidden_sizes", (256, 512, 1024, 2048))),
        "groups": config.get("num_groups", 32),
    }
    _refuse_rounding(model["hidden_dims"], "config.json: hidden_sizes")
    return options.objective(config, model, *_CLASSES)


def _refuse_rounding(widths: list[int], where: str) -> None:
    if any(width % _STEP for width in widths):
        raise ConfigError(f"{where} = {list(widths)}: vitfm knows multiples of {_STEP}, whose quarters aren't rounded.")


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    model = options.only(objective["model"], (*_FREE, "groups"))
    _refuse_rounding(model["hidden_dims"], "config.objective.model.hidden_dims")
    return {
        "model_type": "bit",
        "layer_type": "preactivation",
        "embedding_size": model["stem_dim"],
        "depths": list(model["depths"]),
        "hidden_sizes": list(model["hidden_dims"]),
        "num_groups": model["groups"],
        **options.classes(objective, num_classes, *_CLASSES),
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    prefix = "bit." if objective["name"] == "supervised" else ""
    stem, block = f"{prefix}embedder.convolution", f"{prefix}encoder.stages.{{}}.layers.{{}}"
    return _network(objective, stem, block, f"{prefix}norm", "classifier.1", linear)


def _network(objective: Mapping[str, Any], stem: str, block: str, norm: str, head: str, way: Way) -> list[Row]:
    """Rows by their names; `way` is of the classifier's kernel."""
    conv = lambda ours, theirs: (f"params/encoder/{ours}/kernel", f"{theirs}.weight", filters)
    table = [conv("stem", stem), *blocks.norm("params/encoder/norm", norm)]
    for stage, depth in enumerate(options.complete(objective["model"])["depths"]):
        for index in range(depth):
            ours, theirs = f"stage_{stage}_block_{index:02d}", block.format(stage, index)
            for layer in range(3):
                table += blocks.norm(f"params/encoder/{ours}/norm_{layer}", f"{theirs}.norm{layer + 1}")
                table.append(conv(f"{ours}/conv_{layer}", f"{theirs}.conv{layer + 1}"))
            if index == 0:
                table.append(conv(f"{ours}/shortcut", f"{theirs}.downsample.conv"))
    return table + (blocks.dense("params/head/logits", head, way) if objective["name"] == "supervised" else [])


# timm.

_NAME = re.compile(r"resnetv2_(\d+x\d)_bit")
_IDLE = ("channels", "stem_chs", "in_chans", "drop_rate", "drop_path_rate", "zero_init_last")


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    name = _NAME.fullmatch(config["architecture"].split(".")[0])
    if name is None or name[1] not in SIZES:
        raise ConfigError(
            f"config.json: architecture = {config['architecture']!r} is no BiT of timm's that vitfm knows."
        )
    options.expect(config, global_pool="avg")
    for key, value in (config.get("model_args") or {}).items():
        if key not in _IDLE:
            raise ConfigError(f"config.json: model_args.{key} = {value!r} is not supported.")
    model = {
        "name": "bit",
        "stem_dim": shapes["stem.conv.weight"][0],
        "depths": list(SIZES[name[1]]["depths"]),
        "hidden_dims": [shapes[f"stages.{stage}.blocks.0.conv3.weight"][0] for stage in range(4)],
    }
    _refuse_rounding(model["hidden_dims"], "config.json: model_args.channels")
    return {"name": "supervised" if config.get("num_classes") else "backbone", "model": model}


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json; what the architecture's name says otherwise is overridden by `model_args`."""
    model = options.only(objective["model"], _FREE)
    _refuse_rounding(model["hidden_dims"], "config.objective.model.hidden_dims")
    names = [name for name, size in SIZES.items() if size["depths"] == tuple(model["depths"]) and name.endswith("x1")]
    names += ["152x2"] if tuple(model["depths"]) == SIZES["152x2"]["depths"] else []
    if not names:
        raise ConfigError(f"config.objective.model.depths = {list(model['depths'])}: timm has no such BiT.")
    factor = int(names[0][-1])  # timm multiplies all widths by it.
    if any(width % factor for width in (model["stem_dim"], *model["hidden_dims"])):
        raise ConfigError(f"config.objective.model.hidden_dims: timm has this depth with multiples of {factor} only.")
    return {
        "architecture": f"resnetv2_{names[0]}_bit",
        "num_classes": num_classes if objective["name"] == "supervised" else 0,
        "num_features": model["hidden_dims"][-1],
        "model_args": {
            "channels": [width // factor for width in model["hidden_dims"]],
            "stem_chs": model["stem_dim"] // factor,
        },
    }


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    return _network(objective, "stem.conv", "stages.{}.blocks.{}", "norm", "head.fc", as_filters)
