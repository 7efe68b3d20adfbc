"""DINOv2 beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families import _timm
from tests.parity.family import Case
from tests.parity.reference import torch, transformers

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}


def _built(cls: str, **options: Any) -> torch.nn.Module:
    return getattr(transformers, cls)(transformers.Dinov2Config(**{**SIZES, **options}))


def bare(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = model(pixels).last_hidden_state
    return {"tokens": tokens, "pooled": tokens[:, 0]}


def logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": model(pixels).logits, "tokens": model.base_model(pixels).last_hidden_state}


CASES = [
    Case("dinov2", "its own size", lambda: _built("Dinov2Model", use_mask_token=False), (28, 28), bare),
    Case("dinov2", "larger, not square", lambda: _built("Dinov2Model", mlp_ratio=2), (56, 35), bare),
    Case(
        "dinov2",
        "classifier, SwiGLU, smaller, not square",
        lambda: _built("Dinov2ForImageClassification", use_swiglu_ffn=True, num_labels=5, num_attention_heads=4),
        (14, 21),
        logits,
    ),
    Case(
        "dinov2",
        "no biases of queries, keys and values, tanh GELU",
        lambda: _built("Dinov2Model", qkv_bias=False, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-5),
        (28, 28),
        bare,
    ),
    _timm.case("dinov2", "its own size", "vit_small_patch14_dinov2", (28, 28)),
    _timm.case(
        "dinov2",
        "SwiGLU in one, mean of the patches, classifier, larger, not square",
        "vit_giant_patch14_dinov2",
        (56, 35),
        3,
        dynamic_img_size=True,
        global_pool="avg",
        fc_norm=False,
        mlp_ratio=2.75,
    ),
]
