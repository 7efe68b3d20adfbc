"""DINOv2 with registers beside transformers'."""

from __future__ import annotations

from typing import Any

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
]
