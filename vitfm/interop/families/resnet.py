"""ResNet v1.5 (He et al. 2016): transformers' `ResNetModel`, `ResNetForImageClassification`; timm's `ResNet`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.weights import Row, Shape, filters, same
from vitfm.models.resnet import REDUCTION

UNUSED = ((r"num_batches_tracked$", "a count of training steps, on which running statistics by momentum don't depend"),)

_CLASSES = ("ResNetModel", "ResNetForImageClassification")
_FREE = ("image_size", "block", "stem_dim", "depths", "hidden_dims", "momentum")


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    options.expect(config, hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False)
    model = {
        "name": "resnet",
        "block": config.get("layer_type", "bottleneck"),
        "stem_dim": config.get("embedding_size", 64),
        "depths": list(config.get("depths", (3, 4, 6, 3))),
        "hidden_dims": list(config.get("hidden_sizes", (256, 512, 1024, 2048))),
    }
    return options.objective(config, model, *_CLASSES)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    model = options.only(objective["model"], _FREE)
    return {
        "model_type": "resnet",
        "layer_type": model["block"],
        "embedding_size": model["stem_dim"],
        "depths": list(model["depths"]),
        "hidden_sizes": list(model["hidden_dims"]),
        "hidden_act": "relu",
        **options.classes(objective, num_classes, *_CLASSES),
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    classifies = objective["name"] == "supervised"
    prefix = "resnet." if classifies else ""
    table = _normed("stem", "stem_norm", *_pair(f"{prefix}embedder.embedder"))
    for ours, stage, index, convs, projects in blocks_of(options.complete(objective["model"])):
        theirs = f"{prefix}encoder.stages.{stage}.layers.{index}"
        for conv in range(convs):
            table += _normed(f"{ours}/conv_{conv}", f"{ours}/norm_{conv}", *_pair(f"{theirs}.layer.{conv}"))
        if projects:
            table += _normed(f"{ours}/shortcut", f"{ours}/shortcut_norm", *_pair(f"{theirs}.shortcut"))
    return table + (blocks.dense("params/head/logits", "classifier.1") if classifies else [])


def _pair(theirs: str) -> tuple[str, str]:
    return f"{theirs}.convolution", f"{theirs}.normalization"


def _normed(conv: str, norm: str, their_conv: str, their_norm: str) -> list[Row]:
    """A convolution of the encoder and the batch norm after it."""
    return [
        (f"params/encoder/{conv}/kernel", f"{their_conv}.weight", filters),
        *blocks.norm(f"params/encoder/{norm}", their_norm),
        (f"extra/batch_stats/{norm}/mean", f"{their_norm}.running_mean", same),
        (f"extra/batch_stats/{norm}/variance", f"{their_norm}.running_var", same),
    ]


def blocks_of(model: Mapping[str, Any]) -> list[tuple[str, int, int, int, bool]]:
    """Each block's name with us, stage, index, number of convolutions, and whether its shortcut is a convolution."""
    basic, found, before = model["block"] == "basic", [], model["stem_dim"]
    for stage, (depth, width) in enumerate(zip(model["depths"], model["hidden_dims"], strict=True)):
        for index in range(depth):
            projects = index == 0 and (stage > 0 or before != width)
            found.append((f"stage_{stage}_block_{index:02d}", stage, index, 2 if basic else 3, projects))
        before = width
    return found


# timm. The tensors say what a name stands for, but for what `model_args` override.

_NAME = re.compile(r"(tv_)?resnet(18|34|50|101|152)")
_IDLE = ("layers", "channels", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")
_DEFAULTS = {"global_pool": "avg", "output_stride": 32, "cardinality": 1, "base_width": 64, "stem_width": 64}
_DEFAULTS |= {"stem_type": "", "replace_stem_pool": False, "block_reduce_first": 1, "down_kernel_size": 1}
_DEFAULTS |= {"avg_down": False, "act_layer": "relu", "norm_layer": "batchnorm2d", "aa_layer": None, "block_args": None}


def timm_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """timm's config.json, and the shapes of its tensors, -> objective."""
    if not _NAME.fullmatch(config["architecture"].split(".")[0]):
        raise ConfigError(
            f"config.json: architecture = {config['architecture']!r} is no ResNet of timm's that vitfm knows."
        )
    options.expect(config, global_pool="avg")
    for key, value in (config.get("model_args") or {}).items():
        if key not in _IDLE and (key not in _DEFAULTS or value != _DEFAULTS[key]):
            raise ConfigError(f"config.json: model_args.{key} = {value!r} is not supported.")
    stages = sorted({name.split(".")[0] for name in shapes if name.startswith("layer")})
    basic = "layer1.0.conv3.weight" not in shapes
    model = {
        "name": "resnet",
        "block": "basic" if basic else "bottleneck",
        "stem_dim": shapes["conv1.weight"][0],
        "depths": [len({n.split(".")[1] for n in shapes if n.startswith(f"{stage}.")}) for stage in stages],
        "hidden_dims": [shapes[f"{stage}.0.conv{2 if basic else 3}.weight"][0] for stage in stages],
    }
    return {"name": "supervised" if config.get("num_classes") else "backbone", "model": model}


def timm_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> timm's config.json; what the architecture's name says otherwise is overridden by `model_args`."""
    model = options.only(objective["model"], tuple(key for key in _FREE if key != "stem_dim"))
    basic = model["block"] == "basic"
    return {
        "architecture": "resnet18" if basic else "resnet50",
        "num_classes": num_classes if objective["name"] == "supervised" else 0,
        "num_features": model["hidden_dims"][-1],
        "model_args": {
            "layers": list(model["depths"]),
            "channels": [width // (1 if basic else REDUCTION) for width in model["hidden_dims"]],
        },
    }


def timm_rows(objective: Mapping[str, Any]) -> list[Row]:
    """timm's names."""
    table = _normed("stem", "stem_norm", "conv1", "bn1")
    for ours, stage, index, convs, projects in blocks_of(options.complete(objective["model"])):
        theirs = f"layer{stage + 1}.{index}"
        for conv in range(convs):
            names = f"{theirs}.conv{conv + 1}", f"{theirs}.bn{conv + 1}"
            table += _normed(f"{ours}/conv_{conv}", f"{ours}/norm_{conv}", *names)
        if projects:
            names = f"{theirs}.downsample.0", f"{theirs}.downsample.1"
            table += _normed(f"{ours}/shortcut", f"{ours}/shortcut_norm", *names)
    return table + (blocks.dense("params/head/logits", "fc") if objective["name"] == "supervised" else [])
