"""CoCa beside open_clip's; what its decoder writes is compared in tests/parity/test_coca.py."""

from __future__ import annotations

from typing import Any

from tests.parity.families.clip import LENGTH, TEXT, VOCABULARY
from tests.parity.family import Case
from tests.parity.reference import CoCa, torch


def _outputs(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    found = model(pixels, torch.tensor(TEXT["text"], dtype=torch.long))
    return {"embed_image": found["image_features"].reshape(len(pixels), -1), "embed_text": found["text_features"]}


def _case(name: str, quick_gelu: bool, **vision: Any) -> Case:
    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 24, "heads": 3, "layers": 1}
    vision = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "mlp_ratio": 2.0, **vision}
    pool = {"attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True}
    config = {
        "embed_dim": 24,
        "quick_gelu": quick_gelu,
        "vision_cfg": {**vision, **pool},
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "layers": 2},
    }
    model = lambda: CoCa(**config)
    return Case("coca", name, model, (16, 16), _outputs, "open_clip", config={"model_cfg": config}, text=TEXT)


CASES = [
    _case("as published", False, attentional_pool=True),
    _case("cascaded poolers, quick GELU", True, attentional_pool="cascade", width=24, head_width=12),
]
