"""DINOv2 with registers beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families import _timm
from tests.parity.families.dinov2 import SIZES, bare, logits
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _built(cls: str, **options: Any) -> torch.nn.Module:
    return getattr(transformers, cls)(transformers.Dinov2WithRegistersConfig(**{**SIZES, **options}))


CASES = [
    Case("dinov2_with_registers", "larger, not square", lambda: _built("Dinov2WithRegistersModel"), (56, 35), bare),
    Case(
        "dinov2_with_registers",
        "classifier, two registers, SwiGLU, smaller",
        lambda: _built(
            "Dinov2WithRegistersForImageClassification", num_register_tokens=2, use_swiglu_ffn=True, num_labels=5
        ),
        (14, 21),
        logits,
    ),
    _timm.case(
        "dinov2_with_registers",
        "smaller, not square",
        "vit_small_patch14_reg4_dinov2",
        (14, 21),
        dynamic_img_size=True,
    ),
    _timm.case("dinov2_with_registers", "SwiGLU in one", "vit_giant_patch14_reg4_dinov2", (28, 28), 3, mlp_ratio=5),
]
