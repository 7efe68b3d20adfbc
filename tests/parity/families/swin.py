"""Swin of transformers and of timm."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from tests.parity.family import Case
from tests.parity.reference import timm, torch, transformers

SMALL = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "mlp_ratio": 2.0, "drop_path_rate": 0.0}


def outputs(module: torch.nn.Module, pixels: torch.Tensor, **options: Any) -> dict[str, torch.Tensor]:
    """Of transformers' bare encoder, or of its classifier."""
    found = module(pixels, **options)
    if "logits" in found:
        return {"logits": found.logits}
    return {"pooled": found.pooler_output, "tokens": found.last_hidden_state}


def timm_outputs(module: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = module.forward_features(pixels)
    found = {"pooled": module.forward_head(tokens, pre_logits=True), "tokens": tokens.flatten(1, 2)}
    return found | ({"logits": module.forward_head(tokens)} if module.num_classes else {})


def build(cls: str = "SwinModel", **options: Any) -> torch.nn.Module:
    options = {"image_size": 32, "window_size": 4, **SMALL, **options}
    return getattr(transformers, cls)(transformers.SwinConfig(**options))


def case(name: str, image: tuple[int, int], cls: str = "SwinModel", see: Any = outputs, **options: Any) -> Case:
    return Case("swin", name, functools.partial(build, cls, **options), image, see)


def timm_case(
    name: str,
    image: tuple[int, int],
    family: str = "swin",
    architecture: str = "swin_tiny_patch4_window7_224",
    **args: Any,
) -> Case:
    args = {"img_size": 32, "window_size": 4, **SMALL, "dynamic_img_size": True, **args}
    classes = args.pop("num_classes", 0)
    make = functools.partial(timm.create_model, architecture, num_classes=classes, **args)
    config = {"architecture": architecture, "num_classes": classes, "model_args": args}
    return dataclasses.replace(Case(family, name, make, image, timm_outputs, "timm"), config=config)


def masked(module: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The encoder of the class for masked images; nothing is masked, so that its token is not seen."""
    return {"tokens": module.swin(pixels).last_hidden_state}


CASES = [
    case("with head", (32, 32), "SwinForImageClassification", num_labels=5),
    case(
        "several labels, GELU by tanh, no biases of queries, keys and values",
        (32, 32),
        "SwinForImageClassification",
        num_labels=3,
        problem_type="multi_label_classification",
        hidden_act="gelu_pytorch_tanh",
        qkv_bias=False,
        layer_norm_eps=1e-3,
    ),
    case("non-square, larger than in pretraining", (48, 64)),
    case("sizes that neither patches nor windows divide", (45, 37), window_size=3),
    case(
        "three stages, four channels",
        (48, 48),
        image_size=48,
        window_size=3,
        num_channels=4,
        depths=[1, 2, 1],
        num_heads=[1, 2, 4],
    ),
    case("absolute positions", (32, 32), use_absolute_embeddings=True),
    case(
        "absolute positions, interpolated",
        (48, 40),
        see=functools.partial(outputs, interpolate_pos_encoding=True),
        use_absolute_embeddings=True,
    ),
    case("the encoder of a masked image model", (32, 32), "SwinForMaskedImageModeling", masked, encoder_stride=8),
    timm_case("with head", (32, 32), num_classes=5),
    timm_case("windows that don't divide the grid, non-square", (40, 28), img_size=(40, 28), window_size=3),
    timm_case("larger than in pretraining", (64, 48)),
    timm_case("smaller than in pretraining", (16, 24)),
    timm_case(
        "windows of each stage, no biases", (32, 48), window_size=[[2, 4], [4, 2]], qkv_bias=False, img_size=(32, 48)
    ),
]
