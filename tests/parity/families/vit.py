"""ViT beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families import _timm
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _transformers(cls: str, **sizes: Any) -> torch.nn.Module:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, **sizes}
    return getattr(transformers, cls)(transformers.ViTConfig(**config))


def _bare(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = model(pixels).last_hidden_state
    return {"tokens": tokens, "pooled": tokens[:, 0]}


def _logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": model(pixels).logits, "tokens": model.vit(pixels).last_hidden_state}


def _timm_case(name: str, architecture: str, image: tuple[int, int], num_classes: int = 0, **args: Any) -> Case:
    return _timm.case("vit", name, architecture, image, num_classes, **{"img_size": 32, "patch_size": 8, **args})


CASES = [
    Case("vit", "bare, odd sizes", lambda: _transformers("ViTModel", image_size=21, patch_size=7), (21, 21), _bare),
    Case(
        "vit",
        "classifier, tanh GELU, 3 heads, MLP of 40",
        lambda: _transformers(
            "ViTForImageClassification",
            hidden_size=48,
            num_attention_heads=3,
            intermediate_size=40,
            image_size=32,
            patch_size=8,
            hidden_act="gelu_pytorch_tanh",
            layer_norm_eps=1e-6,
            num_labels=5,
        ),
        (32, 32),
        _logits,
    ),
    _timm_case("class token, not square", "vit_base_patch16_224", (40, 24), 5, dynamic_img_size=True),
    _timm_case("average", "vit_base_patch16_gap_224", (32, 32), mlp_ratio=2.0),
    _timm_case("class token without a position", "vit_base_patch16_224", (32, 32), no_embed_class=True),
    _timm_case("CLIP's tower, quick GELU", "vit_base_patch32_clip_quickgelu_224", (32, 32), 3),
    _timm_case(
        "normed mean beside class token and registers, layer scale, larger, not square",
        "vit_small_patch16_224",
        (56, 40),
        4,
        global_pool="avg",
        reg_tokens=2,
        no_embed_class=True,
        init_values=0.1,
        dynamic_img_size=True,
    ),
]
