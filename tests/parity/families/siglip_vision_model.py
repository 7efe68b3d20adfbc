"""SigLIP's image tower beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families import _timm
from tests.parity.family import Case
from tests.parity.reference import torch, transformers

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIZES |= {"image_size": 28, "patch_size": 7}


def _built(**options: Any) -> torch.nn.Module:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**{**SIZES, **options}))


def _outputs(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    found = model(pixels, interpolate_pos_encoding=True)
    pooled = {} if found.pooler_output is None else {"pooled": found.pooler_output}
    return {"tokens": found.last_hidden_state, **pooled}


CASES = [
    Case("siglip_vision_model", "its own size", _built, (28, 28), _outputs),
    Case("siglip_vision_model", "not square", lambda: _built(num_attention_heads=4), (42, 21), _outputs),
    Case("siglip_vision_model", "without head", lambda: _built(vision_use_head=False), (28, 28), _outputs),
    _timm.case(
        "siglip_vision_model", "larger, not square", "vit_base_patch16_siglip_224", (56, 35), dynamic_img_size=True
    ),
    _timm.case(
        "siglip_vision_model",
        "classifier, GELU by tanh, MLP of 40",
        "vit_so400m_patch16_siglip_256",
        (28, 28),
        3,
        mlp_ratio=1.27,
    ),
    _timm.case(
        "siglip_vision_model",
        "mean, classifier, smaller, not square",
        "vit_base_patch16_siglip_gap_224",
        (14, 21),
        3,
        dynamic_img_size=True,
    ),
]
