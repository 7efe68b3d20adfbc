"""DINOv3's vision transformers beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families import _timm
from tests.parity.families.dinov2 import SIZES, bare
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _built(**options: Any) -> torch.nn.Module:
    config = transformers.DINOv3ViTConfig(**{**SIZES, "intermediate_size": 48, **options})
    return transformers.DINOv3ViTModel(config)


CASES = [
    Case("dinov3_vit", "four registers, square", lambda: _built(num_register_tokens=4), (28, 28), bare),
    Case("dinov3_vit", "no registers, not square, other base", lambda: _built(rope_theta=30.0), (21, 56), bare),
    Case(
        "dinov3_vit",
        "SwiGLU, no biases of queries, keys and values, not square",
        lambda: _built(
            use_gated_mlp=True, hidden_act="silu", query_bias=False, value_bias=False, num_register_tokens=2
        ),
        (35, 14),
        bare,
    ),
    Case(
        "dinov3_vit",
        "no other biases",
        lambda: _built(key_bias=True, proj_bias=False, mlp_bias=False, num_register_tokens=1),
        (28, 28),
        bare,
    ),
    _timm.case("dinov3_vit", "mean of the patches, not square", "vit_small_patch16_dinov3", (35, 21)),
    _timm.case(
        "dinov3_vit",
        "class token, biases, classifier, other base, larger",
        "vit_base_patch16_dinov3_qkvb",
        (56, 42),
        3,
        global_pool="token",
        rope_temperature=30.0,
        num_reg_tokens=2,
    ),
    _timm.case(
        "dinov3_vit",
        "SwiGLU, normed mean, smaller",
        "vit_huge_plus_patch16_dinov3",
        (14, 28),
        mlp_ratio=1.4,
        use_fc_norm=True,
    ),
]
