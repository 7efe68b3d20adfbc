"""Cases of timm's vision transformers."""

from __future__ import annotations

from typing import Any

from tests.parity.family import Case
from tests.parity.reference import timm, torch

SIZES = {"img_size": 28, "patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2}


def outputs(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = model.forward_features(pixels)
    found = {"tokens": tokens, "pooled": model.forward_head(tokens, pre_logits=True)}
    return found | ({"logits": model(pixels)} if model.num_classes else {})


def case(
    family: str,
    name: str,
    architecture: str,
    image: tuple[int, int],
    num_classes: int = 0,
    outputs: Any = outputs,
    **args: Any,
) -> Case:
    """A tiny one of an architecture; `args` are timm's."""
    args = {**SIZES, **args}
    config = {"architecture": architecture, "num_classes": num_classes, "model_args": args}
    build = lambda: timm.create_model(architecture, num_classes=num_classes, **args)
    return Case(family, name, build, image, outputs, "timm", config=config)
