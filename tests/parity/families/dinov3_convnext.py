"""DINOv3's ConvNeXt beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families.convnext import SIZES, timm_case
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _outputs(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    found = model(pixels)
    return {"tokens": found.last_hidden_state[:, 1:], "pooled": found.pooler_output}


def _normed(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """timm norms the pooled output alone."""
    tokens = model.forward_features(pixels)
    pooled = model.forward_head(tokens, pre_logits=True)
    return {"tokens": model.head.norm(tokens).flatten(2).transpose(1, 2), "pooled": pooled}


def _case(name: str, image: tuple[int, int], **config: Any) -> Case:
    build = lambda: transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(**{**SIZES, **config}))
    return Case("dinov3_convnext", name, build, image, _outputs)


CASES = [
    _case("square", (64, 64)),
    _case("not square, odd, epsilon 1e-5, tanh GELU", (99, 38), layer_norm_eps=1e-5, hidden_act="gelu_pytorch_tanh"),
    timm_case(
        "dinov3_convnext",
        "not square, sides that patches don't divide",
        "convnext_tiny",
        (71, 54),
        outputs=_normed,
        dims=(8, 16, 24, 32),
        depths=(1, 2, 1, 2),
    ),
]
