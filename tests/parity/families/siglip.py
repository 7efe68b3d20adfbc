"""SigLIP's classifier beside transformers'."""

from __future__ import annotations

from typing import Any

from tests.parity.families.siglip_vision_model import SIZES
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _built(**options: Any) -> torch.nn.Module:
    config = transformers.SiglipConfig(vision_config={**SIZES, **options}, num_labels=5)
    return transformers.SiglipForImageClassification(config)


def _logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    return {"logits": model(pixels, interpolate_pos_encoding=True).logits, "tokens": tokens}


CASES = [
    Case("siglip", "classifier", _built, (28, 28), _logits),
    Case("siglip", "classifier, not square", lambda: _built(vision_use_head=False), (35, 21), _logits),
]
