"""ResNet beside transformers' and timm's, by the running statistics."""

from __future__ import annotations

from typing import Any

from tests.parity.family import Case
from tests.parity.reference import timm, torch, transformers

_SIZES = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 2, 1, 2]}


def bare(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    found = model(pixels)
    return {"tokens": found.last_hidden_state.flatten(2).transpose(1, 2), "pooled": found.pooler_output.flatten(1)}


def logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": model(pixels).logits}


def in_timm(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    features = model.forward_features(pixels)
    found = {"tokens": features.flatten(2).transpose(1, 2), "pooled": features.mean((2, 3))}
    return found | ({"logits": model(pixels)} if model.num_classes else {})


def _case(name: str, image: tuple[int, int], outputs: Any, cls: str, **config: Any) -> Case:
    build = lambda: getattr(transformers, cls)(transformers.ResNetConfig(**{**_SIZES, **config}))
    return Case("resnet", name, build, image, outputs)


def _timm_case(name: str, architecture: str, image: tuple[int, int], num_classes: int = 0, **args: Any) -> Case:
    config = {"architecture": architecture, "num_classes": num_classes, "model_args": args}
    build = lambda: timm.create_model(architecture, num_classes=num_classes, **args)
    return Case("resnet", name, build, image, in_timm, "timm", config=config)


CASES = [
    _case("bare bottlenecks, odd sides", (49, 37), bare, "ResNetModel"),
    _case(
        "classifier, basic blocks, first stage as wide as the stem",
        (33, 48),
        logits,
        "ResNetForImageClassification",
        layer_type="basic",
        embedding_size=16,
        num_labels=5,
    ),
    _timm_case("basic blocks", "resnet18", (32, 45), layers=(1, 2, 1, 1), channels=(16, 24, 32, 40)),
    _timm_case("bottlenecks, classifier", "resnet50", (40, 40), 4, layers=(2, 1, 1, 2), channels=(8, 16, 8, 16)),
]
