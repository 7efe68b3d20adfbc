"""AIMv2's image tower beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families import _timm
from tests.parity.families.siglip_vision_model import SIZES
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _built(**options: Any) -> torch.nn.Module:
    return transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**{**SIZES, **options}))


def _outputs(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    found = model(pixels)
    pooled = {} if found.pooler_output is None else {"pooled": found.pooler_output}
    return {"tokens": found.last_hidden_state, **pooled}


CASES = [
    Case("aimv2_vision_model", "attention pooling", _built, (28, 28), _outputs),
    Case("aimv2_vision_model", "without head", lambda: _built(use_head=False), (28, 28), _outputs),
    Case("aimv2_vision_model", "native, not square", lambda: _built(is_native=True), (35, 56), _outputs),
    Case("aimv2_vision_model", "biases", lambda: _built(qkv_bias=True, mlp_bias=True), (28, 28), _outputs),
    _timm.case("aimv2_vision_model", "larger, not square", "aimv2_large_patch14_224", (56, 35), dynamic_img_size=True),
    _timm.case(
        "aimv2_vision_model", "biases, classifier", "aimv2_huge_patch14_224", (28, 28), 3, qkv_bias=True, proj_bias=True
    ),
]
