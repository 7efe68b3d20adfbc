"""Swin V2 of transformers and of timm."""

from __future__ import annotations

import functools
from typing import Any

from tests.parity.families import swin
from tests.parity.families.swin import outputs, timm_case
from tests.parity.family import Case
from tests.parity.reference import torch, transformers

# The gradient by one scale sums what nearly cancels: of four, not all are mere rounding.
SMALL = {**swin.SMALL, "num_heads": [4, 8]}


def build(cls: str = "Swinv2Model", **options: Any) -> torch.nn.Module:
    options = {"image_size": 32, "window_size": 4, **SMALL, **options}
    return getattr(transformers, cls)(transformers.Swinv2Config(**options))


def case(name: str, image: tuple[int, int], cls: str = "Swinv2Model", see: Any = outputs, **options: Any) -> Case:
    return Case("swinv2", name, functools.partial(build, cls, **options), image, see)


def masked(module: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The encoder of the class for masked images; nothing is masked, so that its token is not seen."""
    return {"tokens": module.swinv2(pixels).last_hidden_state}


timm_v2 = functools.partial(timm_case, family="swinv2", architecture="swinv2_tiny_window8_256", num_heads=[4, 8])

CASES = [
    case("with head", (32, 32), "Swinv2ForImageClassification", num_labels=5),
    case("no biases of queries and values, another epsilon", (32, 32), qkv_bias=False, layer_norm_eps=1e-3),
    case(
        "non-square, larger than in pretraining, windows pretrained smaller", (48, 64), pretrained_window_sizes=[3, 2]
    ),
    case("smaller than in pretraining", (16, 24)),
    case(
        "sizes that neither patches nor windows divide, four channels",
        (45, 37),
        image_size=48,
        window_size=5,
        num_channels=4,
        hidden_act="quick_gelu",
    ),
    case("windows that shrink to the grid", (32, 32), window_size=6),
    case("the encoder of a masked image model", (32, 32), "Swinv2ForMaskedImageModeling", masked, encoder_stride=8),
    timm_v2("with head", (32, 32), num_classes=5),
    timm_v2("windows that don't divide the grid, non-square", (40, 28), img_size=(40, 28), window_size=3),
    timm_v2("larger than in pretraining, GELU by tanh", (64, 48), act_layer="gelu_tanh"),
    timm_v2("windows pretrained smaller, no biases", (32, 32), pretrained_window_sizes=[3, 1], qkv_bias=False),
]
