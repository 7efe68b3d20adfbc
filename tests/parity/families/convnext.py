"""ConvNeXt beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.family import Case
from tests.parity.reference import timm, torch, transformers

SIZES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 2]}


def bare(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    found = model(pixels)
    return {"tokens": found.last_hidden_state.flatten(2).transpose(1, 2), "pooled": found.pooler_output}


def logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": model(pixels).logits}


def _timm(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    features = model.forward_features(pixels)
    found = {"tokens": features.flatten(2).transpose(1, 2), "pooled": model.forward_head(features, pre_logits=True)}
    return found | ({"logits": model(pixels)} if model.num_classes else {})


def timm_case(
    family: str,
    name: str,
    architecture: str,
    image: tuple[int, int],
    num_classes: int = 0,
    outputs: Any = _timm,
    **args: Any,
) -> Case:
    config = {"architecture": architecture, "num_classes": num_classes, "model_args": args}
    build = lambda: timm.create_model(architecture, num_classes=num_classes, **args)
    return Case(family, name, build, image, outputs, "timm", config=config)


def _case(name: str, image: tuple[int, int], outputs: Any, cls: str, **config: Any) -> Case:
    build = lambda: getattr(transformers, cls)(transformers.ConvNextConfig(**{**SIZES, **config}))
    return Case("convnext", name, build, image, outputs)


_TINY = {"dims": (8, 16, 24, 32), "depths": (1, 2, 1, 2)}
CASES = [
    _case("bare, not square, sides that patches don't divide", (71, 54), bare, "ConvNextModel"),
    _case(
        "classifier, no layer scale, tanh GELU, 3 stages, patches of 3",
        (39, 33),
        logits,
        "ConvNextForImageClassification",
        layer_scale_init_value=0.0,
        hidden_act="gelu_pytorch_tanh",
        hidden_sizes=[8, 24, 40],
        depths=[2, 1, 2],
        num_stages=3,
        patch_size=3,
        layer_norm_eps=1e-6,
        num_labels=5,
    ),
    timm_case("convnext", "classifier", "convnext_tiny", (64, 64), 5, **_TINY),
    timm_case("convnext", "norm before pooling", "convnext_tiny_hnf", (64, 33), 3, **_TINY),
    timm_case("convnext", "1x1 convolutions for linear maps", "convnext_atto", (64, 32)),
    timm_case("convnext", "epsilon 1e-5, not square", "convnext_xxlarge", (32, 65), 3, **_TINY),
]
